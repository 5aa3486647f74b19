"""The pipeline: order and levels, switches, records, blame, determinism."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from whet.errors import CompileError, OptionError
from whet.graph.text import graph_text
from whet.passes import pipeline
from whet.passes.pipeline import PassEntry, PassRecord, pass_names, run_passes
from whet.tests.passkit import RELATIVE_TOLERANCE, build, evaluate, feeds, random

NORM = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
TEXT = (
    f"g (float[1,3,6,6] x, float[4,3,3,3] w, {NORM}, int64[2] t) => (float[1,64] y) "
    "{ d = Dropout(x) c = Conv(d, w) n = BatchNormalization(c, gamma, beta, mean, var) "
    "s = Sigmoid(n) m = Mul(n, s) i = Shape<end=1>(m) k = Constant<value_ints=[-1]>() "
    "j = Concat<axis=0>(i, k) y = Reshape(m, j) }"
)


def network() -> ir.Model:
    return build(
        TEXT,
        w=random(4, 3, 3, 3),
        gamma=random(4, seed=1),
        beta=random(4, seed=2),
        mean=random(4, seed=3),
        var=random(4, seed=4, low=0.1),
    )


def kinds(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ["Dropout", "Conv", "BatchNormalization", "Sigmoid", "Mul", "Reshape"]),
        (1, ["Conv", "Sigmoid", "Mul", "Reshape"]),
        (2, ["Conv", "Swish", "Reshape"]),
        (3, ["Conv", "Swish", "Reshape"]),
    ],
)
def test_levels(level: int, expected: list[str]) -> None:
    model = network()
    inputs = feeds(model)
    (before,) = evaluate(model, inputs)
    run_passes(model, opt_level=level)
    assert kinds(model) == expected
    (after,) = evaluate(model, inputs)
    assert abs(after - before).max() <= RELATIVE_TOLERANCE * abs(before).max()


def test_switches() -> None:
    model = network()
    run_passes(model, opt_level=2, switches={"fold_batchnorm": False})
    assert kinds(model) == ["Conv", "BatchNormalization", "Swish", "Reshape"]
    model = network()
    run_passes(model, opt_level=0, switches={"fuse_silu": True})
    assert "Swish" in kinds(model)


def test_unknown_switch() -> None:
    with pytest.raises(OptionError, match="did you mean 'fold_batchnorm'"):
        run_passes(network(), opt_level=2, switches={"fold_batch_norm": True})


def test_names_are_unique() -> None:
    assert len(set(pass_names())) == len(pass_names())


def test_records_and_observer() -> None:
    model = network()
    seen: list[tuple[PassRecord, str]] = []
    records = run_passes(model, opt_level=3, observe=lambda r: seen.append((r, graph_text(model))))
    assert [r for r, _ in seen] == records
    assert [r.index for r in records] == list(range(len(records)))
    assert seen[-1][1] == graph_text(model)
    counts = {r.name: r.rewrites for r in records if r.rewrites}
    assert counts["fold_batchnorm"] == 1
    assert counts["fuse_silu"] == 1


def test_deterministic() -> None:
    first, second = network(), network()
    run_passes(first, opt_level=3)
    run_passes(second, opt_level=3)
    assert graph_text(first) == graph_text(second)


def break_graph(model: ir.Model) -> int:
    model.graph[-1].outputs[0].type = None
    return 1


def fail(model: ir.Model) -> int:
    raise IndexError("no such thing")


@pytest.mark.parametrize(
    ("broken", "words"),
    [(break_graph, "broke the graph: the type of 'y' is unknown"), (fail, "IndexError: no such")],
)
def test_blame(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[ir.Model], int], words: str
) -> None:
    monkeypatch.setattr(pipeline, "REWRITES", (*pipeline.REWRITES, PassEntry(broken, 0)))
    with pytest.raises(CompileError, match=words) as caught:
        run_passes(network(), opt_level=1)
    where = str(caught.value.where)
    assert where.startswith("pass #")
    assert broken.__name__ in where
    assert "after" in where
    assert "fold_batchnorm" in where


def test_subgraphs_keep_what_they_capture() -> None:
    model = build(
        "g (bool c, float[2] x) => (float[2] y) { a = Relu(x) k = Identity(a) y = If(c) < "
        "then_branch = t () => (float[2] u) { u = Neg(k) }, "
        "else_branch = e () => (float[2] v) { v = Add(k, k) }> }"
    )
    inputs = feeds(model)
    (before,) = evaluate(model, inputs)
    run_passes(model, opt_level=3)
    assert kinds(model) == ["Relu", "If"]
    assert (evaluate(model, inputs)[0] == before).all()

"""Random models over the whole table of operators, their reduction, and those that once failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from whet.tests.fuzz import models, regressions
from whet.tests.fuzz.children import BAD, run_trials
from whet.tests.fuzz.draft import Draft
from whet.tests.fuzz.models import Sample, judge, sample
from whet.tests.fuzz.operators import operators, propose
from whet.tests.fuzz.reduce import reduce_sample
from whet.tests.seeds import seeds_of_models


def test_random_models_are_right(tmp_path: Path) -> None:
    for seed in seeds_of_models(60):
        status, detail = judge(sample(seed), str(tmp_path))
        assert status not in BAD, f"seed {seed}: {detail}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_models_are_right(tmp_path: Path) -> None:
    arguments = ["models", "--cache", str(tmp_path)]
    trials = run_trials(arguments, seeds_of_models(100, of=300), jobs=2, timeout_s=60)
    assert not [outcome for outcome in trials if outcome.status in BAD]


def test_most_operators_take_part() -> None:
    """A new operator is generated from its schema; few need more than that."""
    made = set()
    for op in operators():
        for seed in range(30):
            draft = Draft(seed)
            if draft.append(propose(draft, op)):
                made.add(op)
                break
    assert len(made) > 0.75 * len(operators()), sorted(set(operators()) - made)


def test_wrong_results_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle that says something else everywhere makes a bug of a right model."""
    case = next(s for s in map(sample, range(100)) if judge(s, str(tmp_path)) == ("ok", ""))
    right = models._in_double(case) or models._in_own_types(case)
    assert right is not None
    wrong = [~a if a.dtype.kind in "biu" else a + 1000 for a in right]
    for oracle in ("_in_double", "_in_own_types", "_in_onnx_runtime"):
        monkeypatch.setattr(models, oracle, lambda _: wrong)
    assert judge(case, str(tmp_path))[0] == "bug"


def test_a_failing_model_is_reduced_to_its_fault() -> None:
    """Of a chain, two branches and large extents, the one guilty node is left, and one element."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Softplus", ["a"], ["b"]),
        helper.make_node("Sin", ["b"], ["y"]),
        helper.make_node("Cos", ["x"], ["z"]),
    ]
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, 16]) for n in "xyz"}
    graph = helper.make_graph(nodes, "g", [infos["x"]], [infos["y"], infos["z"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    case = Sample(model, {"x": np.ones((8, 16), np.float32)}, 3)

    def fails(candidate: Sample) -> bool:
        return any(n.op_type == "Softplus" for n in candidate.model.graph.node)

    small = reduce_sample(case, fails)
    assert [n.op_type for n in small.model.graph.node] == ["Softplus"]
    assert len(small.model.graph.output) == 1
    (array,) = small.feeds.values()
    assert array.size == 1


def test_samples_are_stored_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressions, "FOLDER", tmp_path)
    case = sample(3)
    regressions.store(case, "three")
    found = regressions.read("three")
    assert regressions.names() == ["three"]
    assert found.opt_level == case.opt_level
    assert found.feeds.keys() == case.feeds.keys()
    for name, array in case.feeds.items():
        np.testing.assert_array_equal(found.feeds[name], array)


@pytest.mark.parametrize("name", regressions.names() or [pytest.param("", marks=pytest.mark.skip)])
def test_what_once_failed_is_right(name: str, tmp_path: Path) -> None:
    status, detail = judge(regressions.read(name), str(tmp_path))
    assert status not in BAD, detail


def test_only_what_a_last_bit_decides_is_unsure() -> None:
    nodes = [
        helper.make_node("Floor", ["x"], ["whole"]),
        helper.make_node("Exp", ["x"], ["raised"]),
        helper.make_node("Floor", ["raised"], ["jump"]),
        helper.make_node("Add", ["jump", "x"], ["after"]),
        helper.make_node("Add", ["whole", "raised"], ["sure"]),
        helper.make_node("HannWindow", ["n"], ["window"]),
        helper.make_node("Pow", ["window", "x"], ["power"]),
    ]
    graph = helper.make_graph(nodes, "graph", [], [])
    assert models.unsure(graph) == {"jump", "after", "power"}

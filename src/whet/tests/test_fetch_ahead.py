"""Weights that are fetched during the launch in front: which, when, and that results stay."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.driver import plan
from whet.kernel.spec import Contraction
from whet.lower.fetch_ahead import LEAST_BYTES
from whet.measure.profile.operands import operand_columns

Array = np.ndarray[Any, np.dtype[Any]]
CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"


def chain(rows: int | str, widths: tuple[int, ...], rng: np.random.Generator) -> onnx.ModelProto:
    """Return products of bytes, each of what the one before has left modulo 256."""
    nodes, constants, last = [], [], "x"
    for k, (depth, cols) in enumerate(pairwise(widths)):
        weights = rng.integers(-128, 128, (depth, cols)).astype(np.int8)
        constants.append(numpy_helper.from_array(weights, f"w{k}"))
        nodes.append(helper.make_node("MatMulInteger", [last, f"w{k}"], [f"s{k}"]))
        nodes.append(helper.make_node("Cast", [f"s{k}"], [f"q{k}"], to=TensorProto.UINT8))
        last = f"q{k}"
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, widths[0]])
    y = helper.make_tensor_value_info(last, TensorProto.UINT8, [rows, widths[-1]])
    graph = helper.make_graph(nodes, "chain", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def products(
    model: onnx.ModelProto, passes: dict[str, bool | int] | None = None
) -> list[tuple[Contraction, list[str]]]:
    """Return the products of a model with the names of their parameters' buffers."""
    options = whet.Options(threads=2, target=CASCADELAKE, passes=passes or {})
    assembled = plan(model, options=options)
    names = [b.name for b in assembled.program.buffers]
    pairs = [(assembled.kernels[c.kernel], c) for c in assembled.program.launches]
    return [(k, [names[a] for a in c.args]) for k, c in pairs if isinstance(k, Contraction)]


def test_a_product_fetches_the_weights_of_the_next() -> None:
    first, second, last = products(chain(784, (256, 256, 1024, 64), np.random.default_rng(1)))
    assert first[0].ahead is not None and not second[0].tile.prefetch
    assert first[1][first[0].ahead.param] == second[1][second[0].b.param]
    assert first[0].ahead.bytes == 256 * 1024
    assert last[0].ahead is None


@pytest.mark.parametrize(("switch", "fetching"), [(True, 2), (2, 2), (1, 1), (0, 0), (False, 0)])
def test_the_switch_counts_those_that_fetch(switch: bool | int, fetching: int) -> None:
    model = chain(784, (256, 256, 1024, 256, 256), np.random.default_rng(1))
    found = products(model, passes={"fetch_ahead": switch})
    assert sum(kernel.ahead is not None for kernel, _ in found) == fetching


def test_reports_tell_fetched_weights_from_operands() -> None:
    model = chain(784, (256, 256, 1024, 64), np.random.default_rng(1))
    assembled = plan(model, options=whet.Options(threads=2, target=CASCADELAKE))
    program = assembled.program
    seen = []
    for launch in program.launches:
        kernel = assembled.kernels[launch.kernel]
        if isinstance(kernel, Contraction):
            assert launch.fetched == (() if kernel.ahead is None else (kernel.ahead.param,))
            seen.append(operand_columns(program, launch, {})[:3])
    assert any(launch.fetched for launch in program.launches)
    shapes = ("784,256;256,256", "784,256;256,1024", "784,1024;1024,64")
    assert seen == [(shape, "UINT8;INT8", "ND;PACKED") for shape in shapes]


def test_shares_of_a_thread_cover_what_it_begins_with() -> None:
    first = products(chain(784, (256, 256, 1024, 64), np.random.default_rng(1)))[0][0]
    ahead = first.ahead
    assert ahead is not None
    share = -(-ahead.bytes // ahead.shares)
    assert share * ahead.shares >= ahead.bytes and ahead.lines >= 1


@pytest.mark.parametrize(
    ("rows", "widths"),
    [
        (784, (256, 256, LEAST_BYTES // 256 - 64, 64)),
        ("n", (256, 256, 1024, 64)),
        (3, (64, 64, 1024)),
    ],
    ids=["small weights", "open rows", "no time"],
)
def test_nothing_is_fetched_where_it_does_not_pay(rows: int | str, widths: tuple[int, ...]) -> None:
    found = products(chain(rows, widths, np.random.default_rng(2)))
    assert len(found) == len(widths) - 1
    assert all(kernel.ahead is None for kernel, _ in found)


def test_bytes_moved_are_counted_once() -> None:
    model = chain(784, (256, 256, 1024, 64), np.random.default_rng(3))
    options = whet.Options(threads=2, target=CASCADELAKE)
    launches = plan(model, options=options).program.launches
    moved = sum(launch.bytes.evaluate({}) for launch in launches)
    weights = 256 * 256 + 256 * 1024 + 1024 * 64
    results = 784 * (2 * 256 + 2 * 256 + 2 * 1024 + 64)
    assert moved <= weights + results + 4 * 4096


@pytest.mark.parametrize(("rows", "threads"), [(783, 3), (391, 2), (1, 2)])
def test_results_are_exact(rows: int, threads: int) -> None:
    rng = np.random.default_rng(rows + threads)
    model = chain(rows, (256, 252, 1000, 70), rng)
    x = rng.integers(0, 256, (rows, 256)).astype(np.uint8)
    expected = x
    for constant in model.graph.initializer:
        total = expected.astype(np.int64) @ numpy_helper.to_array(constant).astype(np.int64)
        expected = (total & 255).astype(np.uint8)
    compiled = whet.compile(model, options=whet.Options(threads=threads))
    assert np.array_equal(next(iter(compiled({"x": x}).values())), expected)

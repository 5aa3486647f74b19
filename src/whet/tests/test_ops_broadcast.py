"""Broadcasting of run-time dimensions of different names, of which one may be 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import ShapeError
from whet.runtime.model import CompiledModel
from whet.tests.tolerance import assert_close

FLOAT = TensorProto.FLOAT
Dims = Sequence[int | str]


def _model(nodes: list[onnx.NodeProto], shapes: Any = None, **inputs: Dims) -> CompiledModel:
    infos = [helper.make_tensor_value_info(n, FLOAT, list(s)) for n, s in inputs.items()]
    result = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = whet.Options(threads=2)
    return whet.compile(model.SerializeToString(), shapes=shapes, options=options)


def _attention(mask: Dims) -> CompiledModel:
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    heads: dict[str, Dims] = {"q": ["b", 3, "s", 8], "k": ["b", 3, 8, "t"], "v": ["b", 3, "t", 8]}
    return _model(nodes, **heads, mask=mask)


@pytest.fixture(scope="module")
def attention() -> CompiledModel:
    return _attention(["b2", 1, "s2", "t"])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("queries", [1, 5])
def test_masks_may_be_one_along_open_dimensions(
    attention: CompiledModel, batch: int, queries: int
) -> None:
    rng = np.random.default_rng(batch * 10 + queries)
    q, k, v = (
        rng.standard_normal(s, np.float32) for s in ((3, 3, 5, 8), (3, 3, 8, 7), (3, 3, 7, 8))
    )
    mask = rng.standard_normal((batch, 1, queries, 7), np.float32)
    scores = q.astype(np.float64) @ k + mask
    p = np.exp(scores - scores.max(-1, keepdims=True))
    expected = p / p.sum(-1, keepdims=True) @ v
    found = attention.run({"q": q, "k": k, "v": v, "mask": mask})["y"]
    assert_close(found, expected, "attention", dtype="float32", length=8, scale=4.0)


@pytest.mark.parametrize("shape", [(2, 1, 5, 7), (3, 1, 4, 7)])
def test_what_does_not_fit_is_refused(attention: CompiledModel, shape: tuple[int, ...]) -> None:
    feed = {"q": (3, 3, 5, 8), "k": (3, 3, 8, 7), "v": (3, 3, 7, 8), "mask": shape}
    with pytest.raises(ShapeError, match="do not fit"):
        attention.run({n: np.zeros(s, np.float32) for n, s in feed.items()})


def test_equals_are_not_repeated_and_the_error_says_what_to_do() -> None:
    """Of two tensors of one rank neither is made to be repeated (decision 21)."""
    add = [helper.make_node("Add", ["u", "v"], ["y"])]
    ones = {"u": np.ones((1, 3), np.float32), "v": np.ones((4, 3), np.float32)}
    with pytest.raises(ShapeError, match="--shape"):
        _model(add, u=["a", 3], v=["b", 3]).run(ones)
    both = _model(add, {"u": [(1, 3)]}, u=["a", 3], v=["b", 3])
    for rows in (1, 4):
        found = both.run({"u": np.ones((rows, 3), np.float32), "v": ones["v"]})["y"]
        np.testing.assert_array_equal(found, np.full((4, 3), 2, np.float32))


def test_a_bias_is_repeated_along_what_the_run_gives() -> None:
    nodes = [helper.make_node("Where", ["c", "x", "bias"], ["y"])]
    nodes.insert(0, helper.make_node("Greater", ["x", "bias"], ["c"]))
    model = _model(nodes, x=["n", "h", 5], bias=["m", 5])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 5), np.float32)
    for rows in (1, 4):
        bias = rng.standard_normal((rows, 5), np.float32)
        np.testing.assert_array_equal(model.run({"x": x, "bias": bias})["y"], np.maximum(x, bias))


def test_expand_repeats_what_the_run_gives() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["goal"]),
        helper.make_node("Expand", ["m", "goal"], ["wide"]),
        helper.make_node("Mul", ["wide", "x"], ["y"]),
    ]
    model = _model(nodes, x=["a", "b", 3], m=["c", "d", 3])
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 2, 3), np.float32)
    for shape in ((1, 1, 3), (4, 1, 3), (1, 2, 3), (4, 2, 3)):
        m = rng.standard_normal(shape, np.float32)
        np.testing.assert_array_equal(model.run({"x": x, "m": m})["y"], x * m)


def test_nothing_to_repeat(attention: CompiledModel) -> None:
    feed = {"q": (0, 3, 5, 8), "k": (0, 3, 8, 7), "v": (0, 3, 7, 8), "mask": (0, 1, 5, 7)}
    found = attention.run({n: np.zeros(s, np.float32) for n, s in feed.items()})["y"]
    assert found.shape == (0, 3, 5, 8)

"""Indices from data that point nowhere: what comes out is defined, nothing outside is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import WhetError
from whet.tests.fences import fenced
from whet.tests.node_models import NodeModel, numbers
from whet.tests.ops_harness import OPSET, Shape

Array = np.ndarray[Any, np.dtype[Any]]
FAR = (7, -8, 1 << 40, -(1 << 62), np.iinfo(np.int64).min, np.iinfo(np.int64).max)


def nearest(index: int, extent: int) -> int:
    """Return the index that is read in place of one that does not exist."""
    return min(max(index + extent if index < 0 else index, 0), extent - 1)


@pytest.mark.parametrize("index", FAR)
def test_far_indices_read_the_nearest_element(index: int) -> None:
    x = numbers(np.random.default_rng(1), (4, 5), "float32")
    row = nearest(index, 4)
    NodeModel("Gather", (x, np.array([index, 1]))).check([x[[row, 1]]])
    wide = np.full((2, 5), index)
    NodeModel("GatherElements", (x, wide)).check([x[[row, row]]])
    both = np.array([[index, index]])
    NodeModel("GatherND", (x, both)).check([x[[row], [nearest(index, 5)]]])


@pytest.mark.parametrize(
    ("op", "shape"), [("Gather", (2,)), ("GatherElements", (2, 3)), ("GatherND", (2, 1))]
)
def test_nothing_to_read_from(op: str, shape: tuple[int, ...]) -> None:
    empty = np.ones((0, 3), np.float32)
    node = NodeModel(op, (empty, np.zeros(shape, np.int64)))
    node.check([np.zeros((2, 3), np.float32)])


def test_more_columns_than_there_are() -> None:
    x = numbers(np.random.default_rng(2), (4, 3), "float32")
    wanted = np.zeros((2, 9), np.float32)
    wanted[:, :3] = x[[1, 1]]
    symbols: dict[int, Shape] = {0: ("n", "m"), 1: ("k", "l")}
    node = NodeModel("GatherElements", (x, np.ones((2, 9), np.int64)), symbols=symbols)
    (found,) = node.run(node.compiled())
    np.testing.assert_array_equal(found, wanted)


def test_a_constant_index_beyond_a_run_time_dimension() -> None:
    x = numbers(np.random.default_rng(3), (2, 3), "float32")
    node = NodeModel("Gather", (x, np.array(5)), {}, frozenset({1}), symbols={0: ("n", 3)})
    (found,) = node.run(node.compiled())
    np.testing.assert_array_equal(found, np.zeros(3, np.float32))


def test_an_index_into_an_empty_selection() -> None:
    nodes = [
        helper.make_node("Compress", ["x", "keep"], ["kept"], axis=0),
        helper.make_node("Gather", ["kept", "at"], ["y"]),
    ]
    given = {
        "x": numbers(np.random.default_rng(4), (4, 3), "float32"),
        "keep": np.array([False, True, False, True]),
        "at": np.array([1, 0]),
    }
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))]
    graph = helper.make_graph(nodes, "selection", inputs, outputs)
    imports = [helper.make_opsetid("", OPSET)]
    model = whet.compile(helper.make_model(graph, opset_imports=imports, ir_version=10))
    np.testing.assert_array_equal(model(given)["y"], given["x"][[3, 1]])
    given["keep"][:] = False
    around = {n: fenced(a, at_end=True) for n, a in given.items()}
    np.testing.assert_array_equal(model(around)["y"], np.zeros((2, 3)))


def mismatched(op: str) -> tuple[list[Array], dict[int, Shape]]:
    """Return inputs whose extents do not go together, each extent with a name of its own."""
    all_shapes: dict[str, list[tuple[int, ...]]] = {
        "ReverseSequence": [(5, 4), (2,)],
        "ScatterElements": [(4, 3), (2, 3), (1, 3)],
        "ScatterND": [(4, 3), (2, 1), (2, 2)],
        "TensorScatter": [(4, 3, 2), (4, 1, 2), (2,)],
        "NonMaxSuppression": [(1, 3, 4), (1, 2, 9), (1,)],
    }
    shapes = all_shapes[op]
    whole = {"ReverseSequence": {1}, "TensorScatter": {2}, "NonMaxSuppression": {2}}.get(op, {1})
    arrays = [np.ones(s, np.int64 if k in whole else np.float32) for k, s in enumerate(shapes)]
    fixed = {("ScatterND", 1, 1), ("NonMaxSuppression", 0, 2), ("NonMaxSuppression", 2, 0)}
    symbols: dict[int, Shape] = {
        k: tuple(e if (op, k, d) in fixed else f"d{k}{d}" for d, e in enumerate(s))
        for k, s in enumerate(shapes)
    }
    return arrays, symbols


@pytest.mark.parametrize(
    "op",
    ["ReverseSequence", "ScatterElements", "ScatterND", "TensorScatter", "NonMaxSuppression"],
)
def test_extents_that_do_not_go_together(op: str) -> None:
    arrays, symbols = mismatched(op)
    with pytest.raises(WhetError):
        NodeModel(op, arrays).compiled()
    model = NodeModel(op, arrays, symbols=symbols).compiled()
    with pytest.raises(WhetError):
        model({f"x{k}": a for k, a in enumerate(arrays)})

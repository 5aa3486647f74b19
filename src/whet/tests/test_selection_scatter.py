"""ScatterElements, ScatterND and TensorScatter, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.errors import WhetError
from whet.tests.node_models import COMPUTED, NodeModel, numbers
from whet.tests.ops_harness import reference
from whet.tests.seeds import seeds_of_models

REDUCTIONS = ("none", "add", "mul", "min", "max")
HOSTILE = (10, -11, 1 << 40, -(1 << 62), np.iinfo(np.int64).min, np.iinfo(np.int64).max)
Array = np.ndarray[Any, np.dtype[Any]]


def right(node: NodeModel) -> list[Array]:
    arrays = {f"x{k}": a for k, a in enumerate(node.arrays) if a is not None}
    return reference(node.node(), arrays)


def elements(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    axis: int,
    *,
    rows: tuple[int, ...] | None = None,
    dtype: str = "float32",
    reduction: str = "none",
) -> NodeModel:
    """Return a ScatterElements whose indices repeat and count from both ends."""
    own = rows or shape
    extent = shape[axis]
    indices = rng.integers(-extent, extent, own)
    attributes = {"axis": axis, "reduction": reduction}
    x, updates = numbers(rng, shape, dtype), numbers(rng, own, dtype)
    return NodeModel("ScatterElements", (x, indices, updates), attributes)


def slices(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    count: tuple[int, ...],
    depth: int,
    *,
    dtype: str = "float32",
    reduction: str = "none",
) -> NodeModel:
    """Return a ScatterND whose indices repeat and count from both ends."""
    parts = [rng.integers(-e, e, (*count, 1)) for e in shape[:depth]]
    indices = np.concatenate(parts, axis=-1) if parts else np.zeros((*count, 0), np.int64)
    updates = numbers(rng, (*count, *shape[depth:]), dtype)
    x = numbers(rng, shape, dtype)
    return NodeModel("ScatterND", (x, indices, updates), {"reduction": reduction})


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter_elements_in_order(reduction: str) -> None:
    rng = np.random.default_rng(4)
    for axis in (0, 1, -1):
        node = elements(rng, (5, 7, 19), axis, reduction=reduction)
        node.check(right(node), threads=2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter_nd_in_order(reduction: str) -> None:
    rng = np.random.default_rng(5)
    for depth, count in ((1, (9,)), (2, (4, 3)), (3, (40,))):
        node = slices(rng, (5, 7, 19), count, depth, reduction=reduction)
        node.check(right(node), threads=2)


@pytest.mark.parametrize("dtype", COMPUTED)
def test_every_type(dtype: str) -> None:
    rng = np.random.default_rng(6)
    node = elements(rng, (3, 17), 0, dtype=dtype)
    node.check(right(node))
    reduction = "max" if dtype == "bool" else "add"
    slices(rng, (4, 3, 17), (6,), 1, dtype=dtype, reduction=reduction).check()


def test_random_shapes() -> None:
    for seed in seeds_of_models(12):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.choice((1, 2, 3, 5, 16, 17), rng.integers(1, 5)))
        axis = int(rng.integers(len(shape)))
        rows = tuple(int(rng.integers(1, n + 1)) for n in shape)
        node = elements(rng, shape, axis, rows=rows, reduction=str(rng.choice(REDUCTIONS)))
        node.check(right(node), threads=2)


def test_columns_are_split_among_threads() -> None:
    rng = np.random.default_rng(7)
    node = slices(rng, (50, 128), (300,), 1, reduction="add")
    node.check(right(node), threads=2)


@pytest.mark.parametrize("index", HOSTILE)
def test_indices_outside_change_nothing(index: int) -> None:
    rng = np.random.default_rng(8)
    for axis in (0, 1):
        x, updates = numbers(rng, (10, 10), "float32"), numbers(rng, (10, 10), "float32")
        indices = np.full((10, 10), index, np.int64)
        NodeModel("ScatterElements", (x, indices, updates), {"axis": axis}).check([x])
    for depth in (1, 2):
        updates = numbers(rng, (3, *x.shape[depth:]), "float32")
        indices = np.full((3, depth), index, np.int64)
        NodeModel("ScatterND", (x, indices, updates), {"reduction": "add"}).check([x])


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
def test_truth_values(reduction: str) -> None:
    rng = np.random.default_rng(12)
    x, updates = (rng.integers(0, 2, (9, 4)).astype(bool) for _ in range(2))
    indices = np.arange(9)[:, None]
    NodeModel("ScatterND", (x, indices, updates), {"reduction": reduction}).check()
    spread = np.broadcast_to(indices, (9, 4)).copy()
    NodeModel("ScatterElements", (x, spread, updates), {"reduction": reduction}).check()


def test_indices_are_checked_one_by_one() -> None:
    x, updates = np.zeros((2, 3), np.float32), np.arange(1, 5, dtype=np.float32)
    indices = np.array([[0, 3], [1, -4], [2, 0], [1, 2]])
    wanted = np.zeros((2, 3), np.float32)
    wanted[1, 2] = 4
    NodeModel("ScatterND", (x, indices, updates)).check([wanted])


def test_narrow_indices() -> None:
    rng = np.random.default_rng(9)
    node = elements(rng, (6, 5), 0)
    x, indices, updates = node.arrays
    assert indices is not None
    NodeModel(node.op, (x, indices.astype(np.int32), updates), node.attributes).check(right(node))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_to_change(shape: tuple[int, int]) -> None:
    x = numbers(np.random.default_rng(10), (4, 4), "float32")
    none = np.zeros(shape, np.float32)
    NodeModel("ScatterElements", (x, none.astype(np.int64), none)).check([x])


def test_run_time_dimensions() -> None:
    node = elements(np.random.default_rng(11), (6, 17), 0, rows=(4, 17), reduction="add")
    symbols = {0: ("n", 17), 1: ("m", 17), 2: ("m", 17)}
    named = NodeModel(node.op, node.arrays, node.attributes, symbols=symbols)
    named.check(right(node), threads=2)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    rng = np.random.default_rng(12)
    cache, fresh = numbers(rng, (3, 2, 7, 5), "float32"), numbers(rng, (3, 2, 3, 5), "float32")
    starts = np.array([0, 4, 2 if mode == "linear" else 6])
    node = NodeModel("TensorScatter", (cache, fresh, starts), {"mode": mode})
    node.check(right(node), threads=2)


def test_tensor_scatter_beyond_the_end() -> None:
    cache, fresh = np.zeros((1, 4, 2), np.float32), np.ones((1, 2, 2), np.float32)
    for start, rows in ((3, [3]), (9, []), (-1, [0]), (1 << 62, [])):
        wanted = cache.copy()
        wanted[:, rows] = 1
        NodeModel("TensorScatter", (cache, fresh, np.array([start]))).check([wanted])


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("ScatterElements", ((3, 3), (2, 3), (3, 3))),
        ("ScatterElements", ((3, 3), (3,), (3,))),
        ("ScatterND", ((3, 3), (2, 3), (2,))),
        ("ScatterND", ((3, 3), (2, 1), (2, 2))),
    ],
)
def test_shapes_that_do_not_go_together(op: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    x, indices, updates = (np.zeros(s, np.float32) for s in shapes)
    with pytest.raises(WhetError):
        NodeModel(op, (x, indices.astype(np.int64), updates)).compiled()

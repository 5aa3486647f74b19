"""NonZero, Compress, Unique, NonMaxSuppression, TopK: results whose size only data can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.tests.node_models import COMPUTED, NodeModel, numbers
from whet.tests.ops_harness import Shape, reference
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]
SIZES = (1, 2, 3, 5, 16, 17)


def shape_of(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.choice(SIZES, rng.integers(1, 4)))


# -- NonZero and Compress --------------------------------------------------------------------------


def test_non_zero() -> None:
    for seed in seeds_of_models(5):
        rng = np.random.default_rng(seed)
        x = numbers(rng, shape_of(rng), "float32") * (rng.random() < 0.8)
        NodeModel("NonZero", (x,)).check([np.array(np.nonzero(x), np.int64)], threads=2)


@pytest.mark.parametrize("dtype", COMPUTED)
def test_non_zero_of_every_type(dtype: str) -> None:
    x = numbers(np.random.default_rng(1), (4, 9), dtype)
    NodeModel("NonZero", (x,)).check([np.array(np.nonzero(x), np.int64)])


@pytest.mark.parametrize("x", [np.float32(3), np.float32(0)])
def test_non_zero_of_a_scalar(x: np.float32) -> None:
    found = NodeModel("NonZero", (np.asarray(x),)).compiled()({"x0": np.asarray(x)})["y0"]
    assert found.shape == (0, int(x != 0))


def test_nan_is_not_zero_but_negative_zero_is() -> None:
    x = np.array([np.nan, -0.0, 0.0, np.inf, 1e-45], np.float32)
    NodeModel("NonZero", (x,)).check([np.array([[0, 3, 4]])])


def test_one_model_serves_every_count() -> None:
    model = NodeModel("NonZero", (np.zeros((3, 7), np.float32),), symbols={0: ("n", 7)}).compiled()
    for rows in (1, 5, 2):
        for share in (0, 0.5, 1):
            x = (np.random.default_rng(rows).random((rows, 7)) < share).astype(np.float32)
            np.testing.assert_array_equal(model({"x0": x})["y0"], np.nonzero(x))


def test_compress() -> None:
    for seed in seeds_of_models(5):
        rng = np.random.default_rng(seed)
        x = numbers(rng, shape_of(rng), "float32")
        axis = None if rng.random() < 0.4 else int(rng.integers(-x.ndim, x.ndim))
        length = x.size if axis is None else x.shape[axis]
        condition = rng.random(int(rng.integers(1, length + 1))) < 0.5
        attributes = {} if axis is None else {"axis": axis}
        right = np.compress(condition, x, axis)
        NodeModel("Compress", (x, condition), attributes).check([right], threads=2)


def test_a_condition_that_is_too_long() -> None:
    x, condition = np.arange(3, dtype=np.float32), np.ones(9, np.bool_)
    node = NodeModel("Compress", (x, condition), {"axis": 0}, symbols={0: ("n",), 1: ("m",)})
    node.check([x])


# -- Unique ----------------------------------------------------------------------------------------


def unique(x: Array, axis: int | None, *, ordered: bool) -> list[Array]:
    values, first, back, counts = np.unique(x, True, True, True, axis=axis)
    back = back.reshape(-1)
    if not ordered:
        by = np.argsort(first)
        place = np.empty_like(by)
        place[by] = np.arange(len(by))
        flat = x.reshape(-1) if axis is None else x
        values = np.take(flat, first[by], axis or 0)
        first, back, counts = first[by], place[back], counts[by]
    return [values, first, back, counts]


@pytest.mark.parametrize("ordered", [False, True])
def test_unique(ordered: bool) -> None:
    for seed in seeds_of_models(5):
        rng = np.random.default_rng(seed)
        x = rng.integers(-1, 2, shape_of(rng)).astype(np.float32)
        axis = None if rng.random() < 0.4 else int(rng.integers(x.ndim))
        attributes = {"sorted": int(ordered)} | ({} if axis is None else {"axis": axis})
        node = NodeModel("Unique", (x,), attributes, outputs=4)
        node.check(unique(x, axis, ordered=ordered), threads=2)


@pytest.mark.parametrize("dtype", sorted(set(COMPUTED) - {"bool", "bfloat16"}))
def test_unique_of_every_type(dtype: str) -> None:
    x = numbers(np.random.default_rng(2), (5, 8), dtype)
    NodeModel("Unique", (x,), outputs=4).check(unique(x, None, ordered=True))


def test_unique_takes_nan_for_one_value_and_zeros_for_another() -> None:
    x = np.array([np.nan, 0.0, -0.0, np.nan, 1.0], np.float32)
    found = NodeModel("Unique", (x,), outputs=4).compiled()({"x0": x})
    np.testing.assert_array_equal(found["y0"], [0.0, 1.0, np.nan])
    np.testing.assert_array_equal(found["y2"], [2, 0, 0, 2, 1])
    np.testing.assert_array_equal(found["y3"], [2, 1, 2])


def test_unique_with_run_time_dimensions() -> None:
    x = np.random.default_rng(3).integers(0, 2, (9, 2)).astype(np.int64)
    node = NodeModel("Unique", (x,), {"axis": 0}, outputs=4, symbols={0: ("n", "m")})
    node.check(unique(x, 0, ordered=True))


# -- NonMaxSuppression -----------------------------------------------------------------------------


def suppression(
    rng: np.random.Generator, shape: tuple[int, int, int], limit: int, **attributes: Any
) -> NodeModel:
    corners = rng.random((shape[0], shape[2], 4)).astype(np.float32)
    scores = (rng.integers(0, 8, shape) / 8).astype(np.float32)
    thresholds = [np.array([v], np.float32) for v in rng.random(2) * 0.5]
    return NodeModel(
        "NonMaxSuppression", (corners, scores, np.array([limit]), *thresholds), attributes
    )


def right(node: NodeModel) -> list[Array]:
    arrays = {f"x{k}": a for k, a in enumerate(node.arrays) if a is not None}
    return reference(node.node(), arrays)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 30), (2, 3, 17), (3, 1, 40)])
def test_suppression(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for limit in (3, 100):
        for centred in (0, 1):
            node = suppression(rng, shape, limit, center_point_box=centred)
            node.check(right(node), threads=2)


def test_suppression_with_constants() -> None:
    node = suppression(np.random.default_rng(4), (2, 2, 25), 4)
    NodeModel(node.op, node.arrays, constants=frozenset({2, 3, 4})).check(right(node))


@pytest.mark.parametrize("limit", [0, -5, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_suppression_with_strange_limits(limit: int) -> None:
    node = suppression(np.random.default_rng(5), (1, 2, 9), limit)
    found = node.run(node.compiled())
    assert len(found[0]) == (0 if limit <= 0 else len(right(node)[0]))


def test_suppression_of_strange_boxes() -> None:
    node = suppression(np.random.default_rng(6), (1, 1, 12), 12)
    corners, scores = node.arrays[0], node.arrays[1]
    assert corners is not None and scores is not None
    corners[0, ::3] = np.nan
    corners[0, 1::3] = np.inf
    scores[0, 0, ::4] = np.nan
    node.check()


def test_suppression_without_options() -> None:
    node = suppression(np.random.default_rng(7), (1, 2, 9), 5)
    NodeModel(node.op, node.arrays[:2]).check([np.zeros((0, 3), np.int64)])
    short = NodeModel(node.op, node.arrays[:4])
    short.check(right(short))


def test_suppression_with_run_time_dimensions() -> None:
    node = suppression(np.random.default_rng(8), (2, 3, 17), 6)
    symbols: dict[int, Shape] = {0: ("b", "n", 4), 1: ("b", "c", "n")}
    NodeModel(node.op, node.arrays, symbols=symbols).check(right(node))


# -- TopK ------------------------------------------------------------------------------------------


def test_k_from_data() -> None:
    x = numbers(np.random.default_rng(9), (3, 19), "float32")
    model = NodeModel("TopK", (x, np.array([1])), outputs=2).compiled()
    for k in (1, 0, 19, 4):
        found = model({"x0": x, "x1": np.array([k])})
        positions = np.argsort(-x, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(found["y1"], positions)
        np.testing.assert_array_equal(found["y0"], np.take_along_axis(x, positions, 1))

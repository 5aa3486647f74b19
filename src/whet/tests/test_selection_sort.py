"""TopK, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.errors import WhetError
from whet.tests.node_models import COMPUTED, NodeModel, numbers
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]

ORDERED = [name for name in COMPUTED if name != "bool"]


def top_k(x: Array, k: int, axis: int = -1, largest: int = 1, **more: Any) -> NodeModel:
    attributes = {"axis": axis, "largest": largest}
    return NodeModel("TopK", (x, np.array([k])), attributes, frozenset({1}), 2, **more)


def expected(x: Array, k: int, axis: int = -1, largest: int = 1) -> list[Array]:
    """Sort stably; to sort downwards, sort what is left of the highest upwards."""
    wide = x.astype(np.float64) if x.dtype.kind in "fV" else x
    ranks = np.unique(wide, return_inverse=True)[1].reshape(x.shape)
    found = np.argsort(-ranks if largest else ranks, axis=axis, kind="stable")
    positions = np.take(found, range(k), axis)
    return [np.take_along_axis(x, positions, axis), positions]


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ORDERED)
def test_every_type(dtype: str, largest: int) -> None:
    x = numbers(np.random.default_rng(1), (3, 37), dtype)
    top_k(x, 9, 1, largest).check(expected(x, 9, 1, largest))


def test_random_shapes() -> None:
    for seed in seeds_of_models(20):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.choice((1, 2, 3, 17, 40), rng.integers(1, 4)))
        axis, largest = int(rng.integers(-len(shape), len(shape))), int(rng.integers(2))
        x = numbers(rng, shape, "float32")
        k = int(rng.integers(0, shape[axis] + 1))
        top_k(x, k, axis, largest).check(expected(x, k, axis, largest), threads=2)


@pytest.mark.parametrize("largest", [0, 1])
def test_nan_is_the_largest_and_zeros_are_equal(largest: int) -> None:
    row = [0.0, np.nan, -0.0, np.inf, -np.inf, -np.nan, 1.0, 0.0, -1.0, np.inf]
    for dtype in (np.float32, np.float64, np.float16):
        for copies in (3, 20):
            x = np.array(row * copies, dtype)
            top_k(x, len(x), 0, largest).check(expected(x, len(x), 0, largest))


@pytest.mark.parametrize("length", [1000, 4099])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_long_rows(length: int, k: int) -> None:
    x = np.random.default_rng(length + k).standard_normal((2, length)).astype(np.float32)
    for largest in (0, 1):
        found = list(top_k(x, k, 1, largest).compiled()({"x0": x}).values())
        for a, b in zip(found, expected(x, k, 1, largest), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ORDERED)
def test_whole_rows_of_every_type(dtype: str, largest: int) -> None:
    x = numbers(np.random.default_rng(4), (3, 2, 300), dtype)
    top_k(x, 300, -1, largest).check(expected(x, 300, -1, largest), threads=2)


def test_whole_rows_along_other_axes() -> None:
    x = np.random.default_rng(5).standard_normal((2, 257, 3)).astype(np.float32)
    for k in (257, 100, 17):
        top_k(x, k, 1).check(expected(x, k, 1), threads=2)


def test_more_rows_than_a_workspace_has_lines() -> None:
    x = np.random.default_rng(6).integers(-(1 << 62), 1 << 62, (19, 130))
    top_k(x, 130).check(expected(x, 130), threads=2)


def test_extremes_of_integers() -> None:
    for kind in (np.int64, np.uint64, np.int8, np.uint8):
        limits = np.iinfo(kind)
        x = np.array([limits.max, 0, limits.min, 1, limits.max - 1, limits.min] * 30, kind)
        for largest in (0, 1):
            for part in (x[:6], x):
                right = expected(part, len(part), 0, largest)
                top_k(part, len(part), 0, largest).check(right)


def test_run_time_dimensions() -> None:
    x = numbers(np.random.default_rng(2), (3, 29), "float32")
    top_k(x, 4, symbols={0: ("n", "m")}).check(expected(x, 4), threads=2)


def test_a_row_shorter_than_k() -> None:
    model = top_k(np.zeros((2, 9), np.float32), 4, symbols={0: ("n", "m")}).compiled()
    x = np.array([[3, 5], [2, 1]], np.float32)
    found = model({"x0": x})
    np.testing.assert_array_equal(found["y1"], [[1, 0, -1, -1], [0, 1, -1, -1]])


def test_more_than_there_is() -> None:
    with pytest.raises(WhetError, match="k elements"):
        top_k(np.zeros((2, 4), np.float32), 5).compiled()


def test_values_and_positions_feed_other_nodes() -> None:
    x = numbers(np.random.default_rng(3), (4, 50), "float32")
    model = top_k(x, 7).compiled()
    found = model({"x0": x})
    np.testing.assert_array_equal(np.take_along_axis(x, found["y1"], 1), found["y0"])

"""CumSum and CumProd, compiled."""

from __future__ import annotations

import numpy as np
import pytest

from whet.tests.node_models import NodeModel, numbers
from whet.tests.seeds import seeds_of_models

TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint64", "uint32")
SIZES = (1, 2, 3, 7, 16, 17, 31)


def cumulative(
    op: str, x: np.ndarray, axis: int, exclusive: int = 0, reverse: int = 0
) -> NodeModel:
    attributes = {"exclusive": exclusive, "reverse": reverse}
    return NodeModel(op, (x, np.array(axis, np.int64)), attributes, frozenset({1}))


def expected(op: str, x: np.ndarray, axis: int, exclusive: int, reverse: int) -> np.ndarray:
    turned = np.flip(x, axis) if reverse else x
    function = np.cumsum if op == "CumSum" else np.cumprod
    wide = turned.astype(np.float64) if x.dtype.kind in "fV" else turned
    total = function(wide, axis=axis, dtype=wide.dtype)
    if exclusive:
        first = np.full_like(np.take(total, [0], axis), op == "CumProd")
        total = np.concatenate([first, np.take(total, range(x.shape[axis] - 1), axis)], axis)
    return (np.flip(total, axis) if reverse else total).astype(x.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
def test_every_type(op: str, dtype: str) -> None:
    x = numbers(np.random.default_rng(1), (3, 5, 19), dtype)
    for axis in (1, -1):
        cumulative(op, x, axis).check([expected(op, x, axis, 0, 0)])


def test_random_shapes_and_options() -> None:
    for seed in seeds_of_models(14):
        rng = np.random.default_rng(seed)
        x = numbers(rng, tuple(rng.choice(SIZES, rng.integers(1, 5))), "float32")
        axis = int(rng.integers(-x.ndim, x.ndim))
        exclusive, reverse = (int(v) for v in rng.integers(0, 2, 2))
        right = expected("CumSum", x, axis, exclusive, reverse)
        cumulative("CumSum", x, axis, exclusive, reverse).check([right], threads=2)


@pytest.mark.parametrize("shape", [(3, 700, 600), (1, 9000), (2, 9000, 300)])
def test_rows_that_are_cut_into_blocks(shape: tuple[int, ...]) -> None:
    x = numbers(np.random.default_rng(2), shape, "int32")
    model = cumulative("CumSum", x, 1).compiled(threads=2)
    (found,) = model({"x0": x}).values()
    np.testing.assert_array_equal(found, np.cumsum(x, axis=1, dtype=np.int32))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_nothing_to_add(shape: tuple[int, ...]) -> None:
    cumulative("CumSum", np.zeros(shape, np.float32), 0).check([np.zeros(shape, np.float32)])


def test_infinities_and_nan_stay_until_the_end() -> None:
    x = np.array([1, np.inf, 2, -np.inf, 3, np.nan], np.float32)
    cumulative("CumSum", x, 0).check([np.array([1, np.inf, np.inf] + [np.nan] * 3, np.float32)])


def test_run_time_dimensions() -> None:
    x = numbers(np.random.default_rng(3), (4, 11, 5), "float32")
    for axis in range(3):
        node = cumulative("CumSum", x, axis)
        NodeModel(
            node.op, node.arrays, node.attributes, node.constants, symbols={0: ("a", "b", 5)}
        ).check([expected("CumSum", x, axis, 0, 0)])


def test_work_grows_with_the_length_and_not_its_square() -> None:
    x = np.ones((1, 1 << 20), np.int64)
    (found,) = cumulative("CumSum", x, 1).compiled()({"x0": x}).values()
    assert found[0, -1] == 1 << 20

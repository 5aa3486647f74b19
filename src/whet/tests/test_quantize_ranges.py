"""Grids, histograms and calibrators against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from whet.errors import OptionError
from whet.quantize.grid import (
    LIMITS,
    dequantize,
    grid_of_range,
    grid_of_weights,
    quantize,
    rounded,
)
from whet.quantize.histogram import HALF, Histogram, restored
from whet.quantize.ranges import CALIBRATORS, Target, find_range

U8 = Target("uint8", symmetric=False)


def histogram_of(*batches: np.ndarray) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(batch)
    return made


def error_of(values: np.ndarray, bounds: tuple[float, float], target: Target = U8) -> float:
    return float(np.square(rounded(values, target.grid(bounds)) - values.astype(np.float64)).mean())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int4", "uint4"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_grid_covers_its_range(dtype: str, symmetric: bool) -> None:
    rng = np.random.default_rng(3)
    for low, high in [(-1.5, 3.25), (0.0, 7.0), (-2.0, 0.0), (1.0, 2.0), (-3.0, -1.0)]:
        grid = grid_of_range(low, high, dtype, symmetric=symmetric)
        first, last = LIMITS[dtype]
        assert first <= grid.zero <= last
        assert rounded(np.zeros(1, np.float32), grid)[0] == 0
        x = rng.uniform(min(low, 0), max(high, 0), 500).astype(np.float32)
        # half a step, and half a step that rounding the zero point cuts off
        assert np.abs(rounded(x, grid) - x).max() <= 1.01 * float(grid.scale)


def test_quantising_is_exact_arithmetic() -> None:
    rng = np.random.default_rng(4)
    grid = grid_of_range(-1.7, 2.9, "uint8", symmetric=False)
    x = rng.uniform(-4, 4, 300).astype(np.float32)
    q = quantize(x, grid)
    for value, number in zip(x, q, strict=True):
        exact = Fraction(float(np.float32(value) / grid.scale))
        assert int(number) == min(255, max(0, round(exact) + int(grid.zero)))


def test_zero_channels_and_zero_values_are_exact() -> None:
    weights = np.zeros((3, 4), np.float32)
    weights[1] = [1, -2, 3, 0.5]
    grid = grid_of_weights(weights, "int8", axis=0, symmetric=True)
    assert np.isfinite(grid.scale).all() and (grid.scale > 0).all()
    assert not dequantize(quantize(weights, grid), grid)[[0, 2]].any()
    assert float(grid_of_range(0, 0, "uint8", symmetric=False).scale) == 1
    tiny = grid_of_range(0, 1e-44, "uint8", symmetric=False)
    assert np.isfinite(rounded(np.full(2, 1e-44, np.float32), tiny)).all()


def test_searched_weights_have_less_error() -> None:
    weights = np.random.default_rng(5).standard_t(3, (6, 200)).astype(np.float32)
    errors = [
        np.square(rounded(weights, grid_of_weights(weights, "int4", axis=0, symmetric=True,
                                                   search=s)) - weights).sum()
        for s in (False, True)
    ]  # fmt: skip
    assert errors[1] < 0.9 * errors[0]


def test_a_histogram_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(6)
    parts = [rng.standard_normal(701).astype(np.float32) * s for s in (1, 0.01, 30, 5)]
    there, back = histogram_of(*parts), histogram_of(*reversed(parts))
    assert np.array_equal(there.counts, back.counts)
    assert (there.low, there.high, there.exponent) == (back.low, back.high, back.exponent)
    assert there.total == 4 * 701
    again = restored(there.state())
    assert np.array_equal(again.counts, there.counts)
    assert again.smooth == there.smooth
    whole = np.concatenate(parts)
    width = 2.0 ** (there.exponent or 0)
    assert abs(there.quantile(0.9) - np.quantile(whole, 0.9)) <= 2 * width
    exact, _ = np.histogram(whole, bins=(np.arange(2 * HALF + 1) - HALF) * width)
    assert np.array_equal(exact, there.counts)


def test_empty_and_zero_data() -> None:
    made = histogram_of(np.zeros((0, 3), np.float32), np.zeros(5, np.float32))
    assert made.total == 5
    for method in CALIBRATORS:
        assert find_range(method, made, U8) == (0.0, 0.0)
    with pytest.raises(OptionError, match="did you mean 'entropy'"):
        find_range("entropi", made, U8)


def test_what_each_calibrator_promises() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal(40000).astype(np.float32)
    x[:4] = [60, -45, 50, 55]
    made = histogram_of(*np.array_split(x, 8))
    found = {method: find_range(method, made, U8) for method in CALIBRATORS}
    assert found["minmax"] == (float(x.min()), float(x.max()))
    assert found["moving_average"][1] < found["minmax"][1]
    share = np.mean((x >= found["percentile"][0]) & (x <= found["percentile"][1]))
    assert 0.9995 < share < 1
    assert found["scale_search"][1] < 1.31 * found["percentile"][1]
    four = Target("uint4", symmetric=False, percentile=99.9)
    rough = {method: find_range(method, made, four) for method in CALIBRATORS}
    best = min(error_of(x, (-t, t), four) for t in np.linspace(1, 60, 200))
    assert error_of(x, rough["mse"], four) < min(
        1.05 * best, 0.5 * error_of(x, rough["minmax"], four)
    )
    assert error_of(x, rough["scale_search"], four) < error_of(x, rough["percentile"], four)
    assert error_of(x, found["mse"]) <= error_of(x, found["minmax"])
    # the few outliers are cut, the bulk is kept
    assert 2.5 < found["entropy"][1] < 30
    assert -30 < found["entropy"][0] < -2.5


def test_sparse_counts_do_not_mislead_the_divergence() -> None:
    x = np.random.default_rng(8).uniform(0, 1, 512).astype(np.float32)
    assert find_range("entropy", histogram_of(x), U8)[1] > 0.9

"""Calibrators: from a histogram to the range that a grid should cover."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import OptionError, nearest
from whet.quantize.grid import Grid, grid_of_range, rounded
from whet.quantize.histogram import HALF, Histogram

Array = np.ndarray[Any, Any]
Range = tuple[float, float]

_SHRINK = np.geomspace(1.0, 1 / 512, 91)
"""Thresholds that are tried, as shares of the largest value: a tenth of a power of two apart."""

_ENTROPY_STEPS = 41
"""Thresholds that the divergence may choose from: a sixteenth of the largest value and more."""

_FINE = np.linspace(0.9, 1.1, 11)
_IFMR = np.arange(0.70, 1.3001, 0.01)


@dataclass(frozen=True, slots=True)
class Target:
    """The grid that a range is wanted for.

    Attributes:
        dtype: the quantised type.
        symmetric: whether the grid is.
        percentile: share of values in percent that the calibrator of this name keeps.
    """

    dtype: str
    symmetric: bool
    percentile: float = 99.99

    def grid(self, bounds: Range) -> Grid:
        """Return the grid of a range."""
        return grid_of_range(*bounds, self.dtype, symmetric=self.symmetric)


def find_range(method: str, histogram: Histogram, target: Target) -> Range:
    """Return the range that a calibrator chooses, which holds 0.

    Raises:
        OptionError: there is no such calibrator.
    """
    if method not in CALIBRATORS:
        raise OptionError(f"there is no calibrator {method!r}", hint=nearest(method, CALIBRATORS))
    if histogram.exponent is None:
        return 0.0, 0.0
    low, high = CALIBRATORS[method](histogram, target)
    return min(low, 0.0), max(high, 0.0)


def _extremes(histogram: Histogram, target: Target) -> Range:
    return histogram.low, histogram.high


def _moving_average(histogram: Histogram, target: Target) -> Range:
    return histogram.smooth or (0.0, 0.0)


def _percentile(histogram: Histogram, target: Target) -> Range:
    share = target.percentile / 100
    low = histogram.quantile(1 - share) if histogram.low < 0 else 0.0
    high = histogram.quantile(share) if histogram.high > 0 else 0.0
    return low, high


def _least_error(histogram: Histogram, target: Target) -> Range:
    """Search the range of least mean squared error: a threshold for both ends, then each end."""
    return _search(histogram, target, _squared_error)


def _entropy(histogram: Histogram, target: Target) -> Range:
    """Search the range whose grid loses the least information (Kullback-Leibler divergence)."""
    return _search(histogram, target, _divergence, _SHRINK[:_ENTROPY_STEPS])


def _scale_search(histogram: Histogram, target: Target) -> Range:
    """Search scales around that of a percentile, from 0.7 to 1.3 of it (as Ascend's IFMR)."""
    low, high = _percentile(histogram, target)
    return _best(
        [(low * f, high * f) for f in _IFMR], lambda r: _squared_error(histogram, target, r)
    )


CALIBRATORS: dict[str, Callable[[Histogram, Target], Range]] = {
    "minmax": _extremes,
    "moving_average": _moving_average,
    "percentile": _percentile,
    "mse": _least_error,
    "entropy": _entropy,
    "scale_search": _scale_search,
}
"""Calibrators by name."""

_Loss = Callable[[Histogram, Target, Range], float]


def _search(histogram: Histogram, target: Target, loss: _Loss, shares: Array = _SHRINK) -> Range:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    largest = max(-low, high)

    def cost(bounds: Range) -> float:
        return loss(histogram, target, bounds)

    low, high = _best([(max(low, -largest * f), min(high, largest * f)) for f in shares], cost)
    low, high = _best([(low, high), *((low * f, high) for f in _FINE)], cost)
    return _best([(low, high), *((low, high * f) for f in _FINE)], cost)


def _best(candidates: Iterable[Range], cost: Callable[[Range], float]) -> Range:
    """Return the cheapest candidate, the first of equals."""
    return min(candidates, key=cost)


def _squared_error(histogram: Histogram, target: Target, bounds: Range) -> float:
    middles, counts = histogram.points()
    return float(
        (np.square(rounded(middles, target.grid(bounds)).astype(np.float64) - middles)) @ counts
    )


def _divergence(histogram: Histogram, target: Target, bounds: Range) -> float:
    """Return how far the values as the grid sees them are from the values, in nats.

    All values of a step are spread evenly over the bins of it that hold any; values outside of the
    range count in its outermost bins. What chance makes of the counts of ``b`` bins in ``s`` steps
    is taken out: ``(b - s) / 2n`` for n values (Miller and Madow).
    """
    assert histogram.exponent is not None
    width = 2.0**histogram.exponent
    used = np.flatnonzero(histogram.counts)
    first = int(np.clip(np.floor(bounds[0] / width), -HALF, HALF - 1)) + HALF
    last = int(np.clip(np.ceil(bounds[1] / width) - 1, -HALF, HALF - 1)) + HALF
    inside = used[(used >= first) & (used <= max(first, last))]
    if not inside.size:
        return np.inf
    kept = histogram.counts[inside].astype(np.float64)
    p = kept.copy()
    p[0] += histogram.counts[:first].sum()
    p[-1] += histogram.counts[max(first, last) + 1 :].sum()
    grid = target.grid(bounds)
    steps = np.rint(((inside - HALF + 0.5) * width) / float(grid.scale)).astype(np.int64)
    steps -= steps.min()
    sums, sizes = np.bincount(steps, weights=kept), np.bincount(steps)
    q = (sums / np.maximum(sizes, 1))[steps]
    p, q = p / p.sum(), q / q.sum()
    chance = (inside.size - np.count_nonzero(sizes)) / (2 * kept.sum())
    return float((p * np.log(p / q)).sum() - chance)

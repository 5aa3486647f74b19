"""What calibration keeps of a value: extremes and a histogram, never the value itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HALF = 4096
"""Bins on each side of 0; 64 KiB a value."""

_EXPONENTS = (-100, 128 - int(math.log2(HALF)))
"""Smallest and largest width of a bin, as powers of two: float32 has no number beyond 2**128."""

MOMENTUM = 0.9
"""Weight of what came before in the moving averages of the extremes."""


class Histogram:
    """Counts of values in bins of width ``2**exponent``, which begin at multiples of it.

    When a larger value arrives the width doubles and neighbours are merged, which is exact: the
    result does not depend on the order of the data. Zeros, which every grid has, are counted apart.

    Attributes:
        low: the smallest value seen.
        high: the largest.
        smooth: moving averages of the smallest and largest value of a batch.
        zeros: how many values were 0.
        exponent: width of a bin, as a power of two; ``None`` while all values were 0.
        counts: values by bin, the first bin starts at ``-HALF * 2**exponent``.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.smooth: tuple[float, float] | None = None
        self.zeros = 0
        self.exponent: int | None = None
        self.counts: Array = np.zeros(2 * HALF, np.int64)

    @property
    def total(self) -> int:
        """Values seen."""
        return self.zeros + int(self.counts.sum())

    def add(self, values: Array) -> None:
        """Count the values of one batch, all finite."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self._note(low, high)
        largest = max(-low, high)
        if not largest:
            self.zeros += flat.size
            return
        self._widen(math.frexp(largest)[1] - int(math.log2(HALF)))
        assert self.exponent is not None
        bins = np.floor(flat * np.float32(2.0**-self.exponent)).astype(np.int32)
        found = np.bincount(np.clip(bins, -HALF, HALF - 1) + HALF, minlength=2 * HALF)
        none = flat.size - int(np.count_nonzero(flat))
        found[HALF] -= none
        self.zeros += none
        self.counts += found

    def _note(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.smooth or (low, high)
        self.smooth = (
            MOMENTUM * before[0] + (1 - MOMENTUM) * low,
            MOMENTUM * before[1] + (1 - MOMENTUM) * high,
        )

    def _widen(self, exponent: int) -> None:
        exponent = max(exponent, _EXPONENTS[0])  # 2**100 is still a float32
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            pairs = self.counts.reshape(HALF, 2).sum(axis=1)
            self.counts = np.zeros(2 * HALF, np.int64)
            self.counts[HALF // 2 : HALF + HALF // 2] = pairs
            self.exponent += 1

    def points(self) -> tuple[Array, Array]:
        """Return the middles of the bins that hold values, and how many; zeros are left out."""
        used = np.flatnonzero(self.counts)
        width = 2.0 ** (self.exponent or 0)
        middles = (used - HALF + 0.5) * width
        return np.clip(middles, self.low, self.high), self.counts[used]

    def quantile(self, share: float) -> float:
        """Return the value below which a share of all values lies, to the width of a bin."""
        middles, counts = self.points()
        place = int(np.searchsorted(middles, 0.0))
        middles = np.insert(middles, place, 0.0)
        running = np.cumsum(np.insert(counts, place, self.zeros))
        at = int(np.searchsorted(running, share * running[-1]))
        return float(middles[min(at, len(middles) - 1)])

    def state(self) -> dict[str, Array]:
        """Return everything as arrays, to be stored."""
        smooth = self.smooth or (math.nan, math.nan)
        exponent = math.nan if self.exponent is None else self.exponent
        numbers = np.array([self.low, self.high, *smooth, self.zeros, exponent], np.float64)
        return {"numbers": numbers, "counts": self.counts}


def restored(state: dict[str, Array]) -> Histogram:
    """Return the histogram that ``Histogram.state`` described.

    Raises:
        ValueError: it is none.
    """
    low, high, first, second, zeros, exponent = (float(x) for x in state["numbers"])
    counts = state["counts"].astype(np.int64)
    made = Histogram()
    if counts.shape != made.counts.shape or (counts < 0).any() or not 0 <= zeros < 2**63:
        raise ValueError("counts are no histogram")
    empty = math.isnan(first) and not counts.any() and not zeros
    if not empty and not (low <= high and np.isfinite([low, high, first, second]).all()):
        raise ValueError("numbers are no extremes of values")
    flat = math.isnan(exponent) and not counts.any()
    if not flat and not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
        raise ValueError("numbers have no width of bins")
    made.low, made.high, made.zeros = low, high, int(zeros)
    made.smooth = None if empty else (first, second)
    made.exponent = None if flat else int(exponent)
    made.counts = counts
    return made

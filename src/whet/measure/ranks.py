"""Confidence intervals from ranks: no shape of noise is assumed, spikes hardly count.

Times are compared as logarithms, so that an estimate is a ratio: 0.05 in logarithms is 5 %. The
intervals are those of the Wilcoxon signed-rank test for pairs and of the Mann-Whitney test for
separate samples (Hollander and Wolfe, Nonparametric Statistical Methods, chapters 3 and 4).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]

MOST_VALUES = 1200
"""More values are thinned evenly: the number of pairs of them grows with the square."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A location and its confidence interval."""

    middle: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def paired_estimate(differences: Vector, confidence: float) -> Estimate:
    """Return the centre of symmetric differences, the median of their pairwise means.

    Args:
        differences: one a pair, at least one; of calls that share a round.
        confidence: of the interval, such as 0.99.
    """
    values = _thinned(differences)
    count = len(values)
    rows, columns = np.triu_indices(count)
    means = np.sort((values[rows] + values[columns]) / 2)
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return _from_sorted(means, count * (count + 1) / 4, spread, confidence)


def separate_estimate(first: Vector, second: Vector, confidence: float) -> Estimate:
    """Return by how much ``first`` lies above ``second``: the median of all differences.

    Args:
        first: values of one run, at least one.
        second: values of another run, at least one.
        confidence: of the interval, such as 0.99.
    """
    a, b = _thinned(first), _thinned(second)
    differences = np.sort((a[:, None] - b[None, :]).reshape(-1))
    pairs = len(a) * len(b)
    spread = math.sqrt(pairs * (len(a) + len(b) + 1) / 12)
    return _from_sorted(differences, pairs / 2, spread, confidence)


def _from_sorted(ordered: Vector, centre: float, spread: float, confidence: float) -> Estimate:
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    first = max(0, math.floor(centre - quantile * spread))
    last = min(len(ordered) - 1, math.ceil(centre + quantile * spread))
    middle = float(np.median(ordered))
    return Estimate(middle=middle, low=float(ordered[first]), high=float(ordered[last]))


def _thinned(values: Vector) -> Vector:
    if len(values) <= MOST_VALUES:
        return values
    picks = np.linspace(0, len(values) - 1, MOST_VALUES).round().astype(int)
    kept: Vector = values[picks]
    return kept

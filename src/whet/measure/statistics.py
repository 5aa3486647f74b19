"""What samples say: each runner's times, and how two runners compare, with the doubt stated."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

from whet.measure.interleave import Samples
from whet.measure.ranks import paired_estimate
from whet.measure.versus import FEWEST_BLOCKS, shortest_of_blocks

RESAMPLES = 2000
CONFIDENCE = 0.95
QUIET_SPREAD = 0.05
NOISY_SPREAD = 0.20
NOISY_FOREIGN_CPU = 0.25
BLOCKS = (4, 2)
"""Calls of a block, of which the shortest counts; the largest that gives enough blocks."""

Verdict = Literal["faster", "slower", "no significant difference"]
Noise = Literal["quiet", "some noise", "noisy"]
Vector = np.ndarray[Any, np.dtype[np.float64]]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one runner, in milliseconds.

    Attributes:
        spread: interquartile range over median.
        block: calls in a row of which the shortest counts for ``block_ms``.
        block_ms: median of these; other programs lengthen it least.
    """

    calls: int
    best_ms: float
    median_ms: float
    mean_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    spread: float
    block: int = 1
    block_ms: float = 0.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One runner against another, from the ratios of the calls that share a round.

    Attributes:
        ours: the runner looked at.
        peer: the runner it is compared with.
        ratio: median of peer's time over ours; above 1, ours is faster.
        quartiles: of the ratios.
        interval: 95 % bootstrap confidence interval of the median.
        verdict: what ``block_interval`` allows to say of ours.
        block: rounds in a row of which the shortest call of each counts for what follows.
        block_ratio: peer's time over ours, as ``whet compare`` estimates it from the blocks.
        block_interval: its 95 % confidence interval, of the signed-rank test.
    """

    ours: str
    peer: str
    ratio: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    verdict: Verdict
    block: int = 1
    block_ratio: float = 0.0
    block_interval: tuple[float, float] = (0.0, 0.0)


def block_size(calls: int) -> int:
    """Return of how many calls in a row the shortest counts."""
    return next((size for size in BLOCKS if calls >= size * FEWEST_BLOCKS), 1)


def summarise(seconds: tuple[float, ...]) -> Summary:
    """Return the statistics of one runner's calls, given in seconds."""
    times = np.asarray(seconds) * 1e3
    size = block_size(len(seconds))
    low, median, high, p90, p95, p99 = np.percentile(times, [25, 50, 75, 90, 95, 99]).tolist()
    return Summary(
        calls=len(seconds),
        best_ms=float(times.min()),
        median_ms=median,
        mean_ms=float(times.mean()),
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=float(times.max()),
        spread=(high - low) / median,
        block=size,
        block_ms=float(np.median(shortest_of_blocks(times, size))),
    )


def bootstrap_median(values: Vector, *, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the median of ``values``."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[picks], axis=1)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(medians, [tail, 100.0 - tail]).tolist()
    return low, high


def compare(samples: Samples, ours: str, peer: str) -> Comparison:
    """Compare two runners of one measurement by the calls that share a round, or a block."""
    size = block_size(len(samples.seconds[ours]))
    shortest = [shortest_of_blocks(samples.seconds[name], size) for name in (peer, ours)]
    estimate = paired_estimate(np.log(shortest[0] / shortest[1]), CONFIDENCE)
    ratios = np.asarray(samples.seconds[peer]) / np.asarray(samples.seconds[ours])
    low, median, high = np.percentile(ratios, [25, 50, 75]).tolist()
    interval = bootstrap_median(ratios)
    verdict: Verdict = "no significant difference"
    if estimate.low > 0.0:
        verdict = "faster"
    elif estimate.high < 0.0:
        verdict = "slower"
    return Comparison(
        ours=ours,
        peer=peer,
        ratio=median,
        quartiles=(low, high),
        interval=interval,
        verdict=verdict,
        block=size,
        block_ratio=math.exp(estimate.middle),
        block_interval=(math.exp(estimate.low), math.exp(estimate.high)),
    )


def noise_of(samples: Samples) -> Noise:
    """Judge the measurement by the steadiest runner's spread and by what else used the CPUs.

    The steadiest runner counts: a runtime may be unsteady by itself, the machine hits all alike.
    """
    spread = min(summarise(seconds).spread for seconds in samples.seconds.values())
    foreign = samples.foreign_cpu or 0.0
    if spread > NOISY_SPREAD or foreign > NOISY_FOREIGN_CPU:
        return "noisy"
    return "quiet" if spread < QUIET_SPREAD else "some noise"

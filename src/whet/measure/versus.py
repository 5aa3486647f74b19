"""Is B slower than A? Rounds of calls in turn until the answer is as exact as asked.

Each round times both once, in random order. The logarithm of the ratio of the two times has a
symmetric distribution if nothing differs, whatever the machine does meanwhile, so that the interval
of the signed-rank test holds; it stops at a width that is fixed in advance, never at a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.ranks import Estimate, Vector, paired_estimate, separate_estimate
from whet.measure.runner import Inputs, Runner

CONFIDENCE = 0.99
PRECISION = 0.015
"""Half width of the interval at which measuring stops: a third of a difference of 5 %."""

MARGIN = 0.01
"""Differences up to this size are of no consequence: two copies of one program differ by as much
for a while, by where their memory lies."""

ROUNDS = 40
MOST_ROUNDS = 600
BLOCKS = 8

Verdict = Literal["faster", "slower", "no significant difference"]
Pairs = tuple[Sequence[float], Sequence[float]]
Sampler = Callable[[int], Pairs]
"""Times both sides in so many rounds; returns seconds of A and of B, round by round."""


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """How B compares with A.

    Attributes:
        ratio: time of B over time of A; above 1, B is slower.
        low: lower end of the confidence interval.
        high: upper end.
        confidence: of the interval.
        verdict: what the interval allows to say of B; differences within ``MARGIN`` are none.
        rounds: calls of each side; of the smaller side if they were measured apart.
        paired: whether calls were made in turn.
        precise: whether the interval became as narrow as asked.
        note: what weakens the comparison.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    verdict: Verdict
    rounds: int
    paired: bool
    precise: bool
    note: str = ""

    def regresses(self, threshold: float) -> bool:
        """Whether B is slower than A beyond doubt, and by more than a share, such as 0.02."""
        return self.verdict == "slower" and self.ratio > 1 + threshold


def compare_until_precise(
    sampler: Sampler, *, precision: float = PRECISION, most_rounds: int = MOST_ROUNDS
) -> Versus:
    """Measure pairs until the interval is narrow enough or ``most_rounds`` are over."""
    logs: list[float] = []
    while True:
        first, second = sampler(min(ROUNDS, most_rounds - len(logs)))
        logs += [math.log(b / a) for a, b in zip(first, second, strict=True)]
        estimate = paired_estimate(np.asarray(logs), CONFIDENCE)
        precise = estimate.half_width <= precision
        if precise or len(logs) >= most_rounds or not len(first):
            return _versus(estimate, len(logs), precise=precise)


def compare_runners(
    first: Runner,
    second: Runner,
    inputs: Sequence[Inputs],
    *,
    precision: float = PRECISION,
    most_rounds: int = MOST_ROUNDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Versus:
    """Compare two prepared runners; see ``compare_until_precise``.

    Args:
        first: A.
        second: B.
        inputs: feeds that rounds take in turn.
        precision: half width of the interval, as a share, at which to stop.
        most_rounds: stop after so many rounds whatever the width.
        progress: called as ``progress("rounds", done, total)``.
    """
    done = 0

    def sample(count: int) -> Pairs:
        nonlocal done
        plan = Plan(rounds=count, seed=done, warm_up=0 if done else 3, lead_in_s=0.0)
        samples = measure_interleaved([first, second], inputs, plan)
        done += count
        if progress is not None:
            progress("rounds", done, most_rounds)
        return samples.seconds[first.name], samples.seconds[second.name]

    return compare_until_precise(sample, precision=precision, most_rounds=most_rounds)


def compare_samples(first: Samples, second: Samples, names: tuple[str, str]) -> Versus:
    """Compare two measurements that were made apart, each with its own machine state.

    A runtime that is in both serves as the yardstick: times are taken relative to it, round by
    round. Without one, the machine may have changed between the two, and what it changed within
    each of them widens the interval.

    Args:
        first: A's measurement.
        second: B's measurement.
        names: of A's and B's runner.
    """
    shared = sorted((first.seconds.keys() & second.seconds.keys()) - set(names))
    yardstick = shared[0] if shared else ""
    a, b = (_logs(s, name, yardstick) for s, name in ((first, names[0]), (second, names[1])))
    estimate = separate_estimate(b, a, CONFIDENCE)
    note = f"measured apart, relative to {yardstick}"
    if not yardstick:
        drift = max(_drift(a), _drift(b))
        estimate = Estimate(
            middle=estimate.middle, low=estimate.low - drift, high=estimate.high + drift
        )
        note = f"measured apart: the interval holds the machine's drift of {drift:.1%}"
    precise = estimate.half_width <= PRECISION
    found = _versus(estimate, min(len(a), len(b)), precise=precise)
    return msgspec.structs.replace(found, paired=False, note=note)


def _logs(samples: Samples, name: str, yardstick: str) -> Vector:
    own: Vector = np.log(np.asarray(samples.seconds[name]))
    if yardstick:
        own = own - np.log(np.asarray(samples.seconds[yardstick]))
    return own


def _drift(logs: Vector) -> float:
    """Return the range of the medians of consecutive blocks."""
    medians = [float(np.median(block)) for block in np.array_split(logs, BLOCKS) if len(block)]
    return max(medians) - min(medians)


def _versus(estimate: Estimate, rounds: int, *, precise: bool) -> Versus:
    verdict: Verdict = "no significant difference"
    if estimate.low > math.log1p(MARGIN):
        verdict = "slower"
    elif estimate.high < -math.log1p(MARGIN):
        verdict = "faster"
    return Versus(
        ratio=math.exp(estimate.middle),
        low=math.exp(estimate.low),
        high=math.exp(estimate.high),
        confidence=CONFIDENCE,
        verdict=verdict,
        rounds=rounds,
        paired=True,
        precise=precise,
    )

"""Is B slower than A? Rounds of calls in turn until the answer is as exact as asked.

Each round times both once, in random order. Of every few rounds in a row, a block, the shortest
call of A is compared with the shortest of B: what disturbs a machine only ever adds time. Both take
new memory after every few rounds: where it lies makes a difference of some per cent, now and then
of ten. The logarithm of the ratio of the two has a symmetric distribution if nothing differs,
whatever the machine does meanwhile, so that the interval of the signed-rank test holds; measuring
stops at a width that is fixed in advance, never at a verdict.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.ranks import Estimate, Vector, paired_estimate, separate_estimate
from whet.measure.runner import Inputs, Renewable, Runner
from whet.measure.turns import long_turns

CONFIDENCE = 0.99
PRECISION = 0.015
"""Half width of the interval at which measuring stops: a third of a difference of 5 %."""

MARGIN = 0.01
"""Differences up to this size are of no consequence."""

ROUNDS = 40
GROWTH = 8
"""After many rounds an eighth of them is added before the next look, so that looks stay few."""

MOST_ROUNDS = 4000
RENEWED = 4
"""Rounds in the same memory, with one call of each before them to warm it up."""

BLOCK_SIZES = (16, RENEWED)
FEWEST_BLOCKS = 10
"""With fewer, the interval of the signed-rank test is hardly narrower than all values."""

PARTS = 8
"""Into which a measurement that was made apart is cut, to see how the machine changed."""

Verdict = Literal["faster", "slower", "no significant difference"]
Times = Sequence[float] | Vector
Sampler = Callable[[int], "Rounds"]
"""Times both sides in so many rounds."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds of A and of B, round by round."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)

    def __add__(self, more: Rounds) -> Rounds:
        """Return these rounds and more of them."""
        return Rounds(self.first + more.first, self.second + more.second)


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
        block: rounds of a block, of which the shortest call of A is compared with that of B.
        medians_ms: median call of A and of B.
        blocks_ms: median over the blocks of their shortest call of A and of B.
        note: how it was measured, where that is not plain.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    verdict: Verdict
    rounds: int
    paired: bool
    precise: bool
    block: int = 1
    medians_ms: tuple[float, float] = (0.0, 0.0)
    blocks_ms: tuple[float, float] = (0.0, 0.0)
    note: str = ""

    def regresses(self, threshold: float) -> bool:
        """Whether B is slower than A beyond doubt, and by more than a share, such as 0.02."""
        return self.verdict == "slower" and self.ratio > 1 + threshold


@dataclass(frozen=True, slots=True)
class Ends:
    """When measuring stops; fixed in advance, so that no verdict decides it.

    Attributes:
        precision: half width of the interval, as a share, that is narrow enough.
        rounds: most rounds.
        seconds: no rounds begin after this time.
    """

    precision: float = PRECISION
    rounds: int = MOST_ROUNDS
    seconds: float = math.inf


def shortest_of_blocks(times: Times, size: int) -> Vector:
    """Return the shortest of every ``size`` times in a row; what is left at the end is dropped."""
    whole = len(times) // size * size
    shortest: Vector = np.asarray(times[:whole], float).reshape(-1, size).min(axis=1)
    return shortest


def block_estimate(rounds: Rounds, precision: float) -> tuple[Estimate, int]:
    """Estimate by how much B's logarithm lies above A's; returns the size of the blocks too.

    The largest blocks whose interval is narrow enough are taken, else those with the narrowest
    one: swapping A and B in a block changes neither the width nor the choice. With too few rounds
    for blocks, each is one.
    """
    found: list[tuple[Estimate, int]] = []
    for size in BLOCK_SIZES if len(rounds.first) >= FEWEST_BLOCKS * RENEWED else (1,):
        first, second = (shortest_of_blocks(x, size) for x in (rounds.first, rounds.second))
        if len(first) < FEWEST_BLOCKS and size > RENEWED:
            continue
        estimate = paired_estimate(np.log(second / first), CONFIDENCE)
        if estimate.half_width <= precision:
            return estimate, size
        found.append((estimate, size))
    return min(found, key=lambda one: one[0].half_width)


def compare_until_precise(sampler: Sampler, ends: Ends = Ends()) -> Versus:
    """Measure pairs until the interval is narrow enough, or rounds or time are over."""
    rounds, started = Rounds(), time.perf_counter()
    while True:
        done = len(rounds.first)
        more = max(ROUNDS, done // GROWTH // RENEWED * RENEWED)
        rounds += sampler(min(more, ends.rounds - done))
        estimate, size = block_estimate(rounds, ends.precision)
        precise = estimate.half_width <= ends.precision
        late = time.perf_counter() - started >= ends.seconds
        if precise or late or len(rounds.first) >= ends.rounds:
            found = _versus(estimate, len(rounds.first), precise=precise)
            first, second = (shortest_of_blocks(x, size) for x in (rounds.first, rounds.second))
            return msgspec.structs.replace(
                found,
                block=size,
                medians_ms=_medians_ms(rounds.first, rounds.second),
                blocks_ms=_medians_ms(first, second),
            )


def compare_runners(
    first: Runner,
    second: Runner,
    inputs: Sequence[Inputs],
    ends: Ends = Ends(),
    progress: Callable[[str, int, int], None] | None = None,
) -> Versus:
    """Compare two prepared runners; see ``compare_until_precise``.

    Args:
        first: A.
        second: B.
        inputs: feeds that rounds take in turn.
        ends: when to stop.
        progress: called as ``progress("rounds", done, total)``.
    """
    done, chance = 0, random.Random(0)

    def sample(count: int) -> Rounds:
        nonlocal done
        rounds = Rounds()
        while len(rounds.first) < count:
            some = min(RENEWED, count - len(rounds.first))
            rounds += _in_new_memory((first, second), inputs, some, chance)
            done += some
            if progress is not None:
                progress("rounds", done, ends.rounds)
        return rounds

    with long_turns():
        return compare_until_precise(sample, ends)


def _in_new_memory(
    pair: tuple[Runner, Runner], inputs: Sequence[Inputs], count: int, chance: random.Random
) -> Rounds:
    """Time some rounds in memory that neither had before."""
    for runner in chance.sample(pair, 2):  # who comes first has the first choice of the memory
        if isinstance(runner, Renewable):
            runner.renew()
    order = chance.sample(pair, 2)
    plan = Plan(rounds=count, seed=chance.getrandbits(32), warm_up=1, lead_in_s=0.0, settle=False)
    seconds = measure_interleaved(order, inputs, plan).seconds
    return Rounds(*(list(seconds[runner.name]) for runner in pair))


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
    shared = yardsticks(first, second, names)
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
    medians_ms = _medians_ms(first.seconds[names[0]], second.seconds[names[1]])
    return msgspec.structs.replace(found, paired=False, medians_ms=medians_ms, note=note)


def yardsticks(first: Samples, second: Samples, names: tuple[str, str]) -> list[str]:
    """Return the runtimes that both measurements have, besides those compared."""
    return sorted((first.seconds.keys() & second.seconds.keys()) - set(names))


def _medians_ms(
    first: Sequence[float] | Vector, second: Sequence[float] | Vector
) -> tuple[float, float]:
    return float(np.median(first)) * 1e3, float(np.median(second)) * 1e3


def _logs(samples: Samples, name: str, yardstick: str) -> Vector:
    own: Vector = np.log(np.asarray(samples.seconds[name]))
    if yardstick:
        own = own - np.log(np.asarray(samples.seconds[yardstick]))
    return own


def _drift(logs: Vector) -> float:
    """Return the range of the medians of consecutive blocks."""
    medians = [float(np.median(block)) for block in np.array_split(logs, PARTS) if len(block)]
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

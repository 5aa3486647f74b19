"""Measured quantisation: a layer stays in 8 bits only if that is faster on this machine.

Each layer is put back to float in turn, in the program with all others as they are; where the two
cannot be told apart, or float is faster, float stays. What is left is ordered by the error that a
layer costs for the time it gains, and prefixes of that order are measured as wholes: the front of
latency against error, from which a goal picks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.quantize.judge import Judge
from whet.quantize.scores import Score

GoalName = Literal["speed", "balance", "accuracy"]
GOALS: tuple[GoalName, ...] = ("speed", "balance", "accuracy")
_POINTS = 8
_WORTHWHILE = 0.95
"""The goal ``accuracy`` takes the most accurate point that saves a twentieth of the time."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Two programs, timed call by call in turn.

    Attributes:
        first_s: best time of the first.
        second_s: best time of the second.
        ratio: time of the second over that of the first, the median of pairs.
        differs: whether the difference is beyond doubt.
    """

    first_s: float
    second_s: float
    ratio: float
    differs: bool


Timer = Callable[[ir.Model, ir.Model], Timing]


class LayerGain(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer gains and costs in 8 bits.

    Attributes:
        name: the node.
        op: its operator.
        gain_ms: time of a run that it saves; negative where float is faster.
        differs: whether that is beyond doubt.
        own_error: error of the outputs with this layer alone in 8 bits.
        kept: whether it stays in 8 bits.
    """

    name: str
    op: str
    gain_ms: float
    differs: bool
    own_error: float
    kept: bool


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One mixture of precisions.

    Attributes:
        layers: how many are in 8 bits.
        time_ratio: time over that of the float model.
        error: distance of the outputs from the float model's.
        value: of the metric.
        on_front: whether no other point is both faster and more accurate.
        chosen: whether the goal picked it.
        choices: what becomes of each layer.
    """

    layers: int
    time_ratio: float
    error: float
    value: float
    on_front: bool
    chosen: bool
    choices: dict[str, str]


class MeasuredReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        goal: what was asked for.
        gains: every layer that was tried.
        points: mixtures, the one with the fewest layers in 8 bits first.
    """

    goal: str
    gains: tuple[LayerGain, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A search by time.

    Attributes:
        judge: scores variants; it has begun already.
        base: the float graph.
        score: its score.
        timer: times two graphs against each other.
        limit: largest drop of the metric; ``None`` for no limit.
        goal: which point is wanted.
        progress: called as ``progress(stage, done, total)``.
    """

    judge: Judge
    base: ir.Model
    score: Score
    timer: Timer
    limit: float | None = None
    goal: GoalName = "speed"
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None

    def run(self, choices: Mapping[str, str], ops: Mapping[str, str]) -> MeasuredReport:
        """Try every layer in 8 bits, then mixtures of those that pay.

        Raises:
            UnsupportedError: no layer is faster in 8 bits, or no mixture holds the target.
        """
        gains = self._gains(dict(choices), ops)
        kept = [gain for gain in gains if gain.kept]
        if not kept:
            raise UnsupportedError(
                "no layer is faster in 8 bits on this machine", hint="leave --measured out"
            )
        points = self._points(kept, dict.fromkeys(choices, "float"))
        return MeasuredReport(goal=self.goal, gains=tuple(gains), points=self._chosen(points))

    def _gains(self, current: dict[str, str], ops: Mapping[str, str]) -> list[LayerGain]:
        quantised = [name for name, choice in current.items() if choice != "float"]
        found: list[LayerGain] = []
        whole = self.judge.write(current)
        for number, name in enumerate(quantised):
            without = {**current, name: "float"}
            lesser = self.judge.write(without)
            times = self.timer(lesser, whole)
            kept = times.differs and times.ratio < 1
            alone = dict.fromkeys(current, "float") | {name: current[name]}
            gain = times.first_s * (1 - times.ratio) * 1e3
            found.append(
                LayerGain(
                    name=name, op=ops[name], gain_ms=gain, differs=times.differs,
                    own_error=self.judge.judge(alone).error, kept=kept,
                )
            )  # fmt: skip
            current, whole = (current, whole) if kept else (without, lesser)
            self.progress("time", number + 1, len(quantised))
        return found

    def _points(self, kept: Sequence[LayerGain], floats: dict[str, str]) -> list[Point]:
        order = sorted(kept, key=lambda g: (g.own_error / g.gain_ms, g.name))
        count = len(order)
        sizes = sorted({-(-count * k // _POINTS) for k in range(1, _POINTS + 1)})
        points = []
        for size in sizes:
            choices = floats | {g.name: "int8" for g in order[:size]}
            found = self.judge.judge(choices)
            times = self.timer(self.base, self.judge.write(choices))
            points.append(
                Point(
                    layers=size, time_ratio=times.ratio, error=found.error, value=found.value,
                    on_front=False, chosen=False, choices=choices,
                )
            )  # fmt: skip
            self.progress("front", len(points), len(sizes))
        return points

    def _chosen(self, points: list[Point]) -> tuple[Point, ...]:
        front = [p for p in points if not any(_beats(q, p) for q in points)]
        held = [p for p in front if self._holds(p)]
        if not held:
            raise UnsupportedError(
                "no mixture of precisions holds the target", hint="allow a larger drop"
            )
        best = _pick(held, self.goal)
        return tuple(
            msgspec.structs.replace(p, on_front=p in front, chosen=p is best) for p in points
        )

    def _holds(self, point: Point) -> bool:
        return self.limit is None or self.score.value - point.value <= self.limit


def _beats(a: Point, b: Point) -> bool:
    """Tell whether one point is at least as good in both, and better in one."""
    as_good = a.time_ratio <= b.time_ratio and a.error <= b.error
    return as_good and (a.time_ratio < b.time_ratio or a.error < b.error)


def _pick(points: Sequence[Point], goal: GoalName) -> Point:
    if goal == "speed":
        return min(points, key=lambda p: p.time_ratio)
    if goal == "accuracy":
        worth = [p for p in points if p.time_ratio <= _WORTHWHILE] or list(points)
        return min(worth, key=lambda p: p.error)
    slowest, worst = max(p.time_ratio for p in points), max(p.error for p in points)
    return min(points, key=lambda p: (p.time_ratio / slowest) ** 2 + (p.error / worst) ** 2)


def chosen_point(report: MeasuredReport) -> dict[str, Any]:
    """Return what becomes of each layer at the point that the goal picked."""
    return next(point.choices for point in report.points if point.chosen)

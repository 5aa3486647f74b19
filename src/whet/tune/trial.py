"""Two programs of one model that differ in schedules, timed launch by launch in turn."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from whet.measure.ranks import Vector, paired_estimate
from whet.measure.runner import Inputs
from whet.runtime.model import CompiledModel

Nodes = tuple[str, ...]

CONFIDENCE = 0.99
TURNS = 12
RUNS = 2
"""Runs of one program before it is the other's turn."""
MARGIN = 0.01
"""A schedule has to be faster by more than this share: less may be where memory happens to lie."""


@dataclass(frozen=True, slots=True)
class Times:
    """Times of a stretch of a program, run by run.

    Attributes:
        before: us of the program as it is.
        after: us of the one that is tried.
    """

    before: Vector
    after: Vector

    def faster(self) -> bool:
        """Tell whether what is tried is faster beyond doubt."""
        if not (np.all(self.before > 0) and np.all(self.after > 0)):
            return False
        found = paired_estimate(np.log(self.after / self.before), CONFIDENCE)
        return found.high < -math.log1p(MARGIN)

    def medians(self) -> tuple[float, float]:
        """Return the medians in us."""
        return float(np.median(self.before)), float(np.median(self.after))


class Race:
    """Time stamps of two programs that ran in turn."""

    def __init__(self, before: CompiledModel, after: CompiledModel, feeds: Inputs) -> None:
        self._places = [_places(program) for program in (before, after)]
        self._spans: list[list[Vector]] = [[], []]
        for turn in range(TURNS):
            order = (0, 1) if turn % 2 else (1, 0)
            for side in order:
                self._spans[side] += _spans((before, after)[side], feeds)

    def times(self, groups: Collection[Nodes]) -> Times:
        """Return the time of all launches that compute some groups of nodes."""
        sums = []
        for places, spans in zip(self._places, self._spans, strict=True):
            indices = [index for nodes in groups for index in places.get(nodes, ())]
            sums.append(np.array([run[indices].sum() for run in spans]))
        return Times(sums[0], sums[1])


def _places(program: CompiledModel) -> dict[Nodes, list[int]]:
    places: dict[Nodes, list[int]] = {}
    for index, launch in enumerate(program.program.launches):
        places.setdefault(launch.nodes, []).append(index)
    return places


def _spans(program: CompiledModel, feeds: Inputs) -> list[Vector]:
    """Return us from the first thread's begin to the last one's end, by launch, for each run."""
    stamps = program.profile_runs(feeds, RUNS).stamps
    begins, ends = stamps[..., 0], stamps[..., 1]
    first = np.where(begins > 0, begins, np.iinfo(np.int64).max).min(axis=1)
    spans = np.maximum(ends.max(axis=1) - first, 0) / 1e3
    return list(spans)

"""Time stamps that the generated code writes around every launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.runtime.state import State

WARM_RUNS = 2
"""Runs in front of a profile, which touch the arena's pages."""

Stamps = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class ProfiledRuns:
    """Several runs with time stamps, each right after one without.

    Attributes:
        stamps: ns, of shape (runs, threads, launches, 2); the last axis is begin and end, zeros
            mean that a thread had no part in a launch.
        wall_ns: duration of each run with stamps.
        plain_ns: duration of the run without stamps in front of it.
    """

    stamps: Stamps
    wall_ns: Stamps
    plain_ns: Stamps


def record_runs(
    state: State, run: Callable[[], object], runs: int, shape: tuple[int, int, int]
) -> ProfiledRuns:
    """Run ``2 * runs`` times and return the stamps of every second run.

    Args:
        state: what ``run`` runs.
        run: one run of the program.
        runs: how many to record.
        shape: threads, launches and 2.
    """
    recorded = np.zeros((runs, *shape), np.int64)
    walls = np.zeros((2, runs), np.int64)
    for _ in range(WARM_RUNS):
        run()
    for number in range(runs):
        state.profile(on=False)
        walls[0, number] = _timed(run)
        stamps = state.profile(on=True)
        walls[1, number] = _timed(run)
        if stamps is not None:
            recorded[number] = np.array(stamps, np.int64).reshape(shape)
    state.profile(on=False)
    return ProfiledRuns(stamps=recorded, wall_ns=walls[1], plain_ns=walls[0])


def _timed(run: Callable[[], object]) -> int:
    begin = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - begin

"""Achieved rates against what the machine was measured to give: what bounds each launch."""

from __future__ import annotations

from typing import Literal

import msgspec

from whet.measure.machine import Limits
from whet.measure.profile.launches import LaunchTime, RunTimes

Bound = Literal["compute", "memory", "overhead"]

OVERHEAD_US = 5.0
"""A shorter launch is a matter of barriers and cold caches rather than of its work."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One launch on the roofline.

    Attributes:
        index: the launch.
        gflops: achieved, 1e9 operations a second.
        gbytes: achieved, 1e9 bytes a second; above the memory's where caches serve.
        intensity: operations a byte.
        bound: what limits it: arithmetic, memory, or neither because it is over too soon.
        ideal_us: time at the measured limits.
        efficiency: ``ideal_us`` over the launch's span; above 1 where caches serve.
    """

    index: int
    gflops: float
    gbytes: float
    intensity: float
    bound: Bound
    ideal_us: float
    efficiency: float


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's limits and where every launch stands; the limits are of f32 arithmetic."""

    limits: Limits
    ridge: float
    rates: tuple[Rate, ...]


def place_launches(times: RunTimes, limits: Limits) -> Roofline:
    """Place every launch on the roofline.

    Args:
        times: the profile.
        limits: measured for as many threads as the program uses.
    """
    ridge = limits.gflops / limits.read_gbytes
    rates = tuple(_rate(launch, limits, ridge) for launch in times.launches)
    return Roofline(limits=limits, ridge=ridge, rates=rates)


def _rate(launch: LaunchTime, limits: Limits, ridge: float) -> Rate:
    seconds = max(launch.span_us, 1e-3) / 1e6
    intensity = launch.flops / launch.bytes if launch.bytes else 0.0
    ideal_us = 1e6 * max(launch.flops / limits.gflops, launch.bytes / limits.read_gbytes) / 1e9
    bound: Bound = "compute" if intensity >= ridge else "memory"
    if launch.span_us < OVERHEAD_US:
        bound = "overhead"
    return Rate(
        index=launch.index,
        gflops=launch.flops / seconds / 1e9,
        gbytes=launch.bytes / seconds / 1e9,
        intensity=intensity,
        bound=bound,
        ideal_us=ideal_us,
        efficiency=ideal_us / (seconds * 1e6),
    )

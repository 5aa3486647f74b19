"""What a profile suggests, ranked by what it would save."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from whet.measure.profile.launches import LaunchTime, RunTimes
from whet.measure.profile.roofline import Rate, Roofline
from whet.program.records import BufferKind, Program
from whet.words import counted

Severity = Literal["high", "medium", "low"]

HIGH, MEDIUM = 0.10, 0.03
"""Shares of the run that a finding has to promise for its rank."""

_MOVES = frozenset(
    {"Transpose", "Copy", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice"}
    | {"Expand", "Identity", "Pad", "Gather", "Tile", "DepthToSpace", "SpaceToDepth"}
)
_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm", "ConvTranspose"})
_INT8_GAIN = 0.5  # half the time left: int8 at twice the rate, a third of what VNNI could give
_SLOW = 0.5
_UNEVEN = 0.8


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that could be better.

    Attributes:
        kind: a word for scripts, such as ``movement``.
        severity: by the share of a run that it would save.
        saves_us: estimate of the time a run would lose.
        launches: the launches concerned.
        message: what was seen.
        remedy: what to do about it.
    """

    kind: str
    severity: Severity
    saves_us: float
    launches: tuple[int, ...]
    message: str
    remedy: str


def advise(program: Program, times: RunTimes, roofline: Roofline) -> tuple[Finding, ...]:
    """Return findings, those that promise most first."""
    rates = {rate.index: rate for rate in roofline.rates}
    found = [
        *_movements(times),
        *_slow_products(times, rates),
        *_unfused(program, times),
        *_uneven(times),
        *_quantisable(times, rates),
        *_waiting(times),
        *_tiny(times),
    ]
    total = max(times.plain_us, sum(launch.span_us for launch in times.launches)) or 1.0
    ranked = [msgspec.structs.replace(f, severity=_severity(f.saves_us / total)) for f in found]
    return tuple(sorted(ranked, key=lambda f: (-f.saves_us, f.kind, f.launches)))


def _severity(share: float) -> Severity:
    return "high" if share >= HIGH else "medium" if share >= MEDIUM else "low"


def _finding(
    kind: str, saves_us: float, launches: list[LaunchTime], message: str, remedy: str
) -> Finding:
    return Finding(
        kind=kind,
        severity="low",
        saves_us=saves_us,
        launches=tuple(launch.index for launch in launches),
        message=message,
        remedy=remedy,
    )


def _label(launch: LaunchTime) -> str:
    names = ", ".join(launch.nodes[:2]) + (", …" if len(launch.nodes) > 2 else "")
    return f"{launch.kernel} ({names})"


def _movements(times: RunTimes) -> Iterator[Finding]:
    moves = [x for x in times.launches if x.ops and set(x.ops) <= _MOVES]
    if moves:
        kinds = ", ".join(sorted({op for x in moves for op in x.ops}))
        yield _finding(
            "movement",
            sum(x.span_us for x in moves),
            moves,
            f"{_counted(moves, 'only move')} data ({kinds})",
            "export with layouts that need no transposes; whet inspect shows what surrounds them",
        )


def _slow_products(times: RunTimes, rates: dict[int, Rate]) -> Iterator[Finding]:
    for launch in times.launches:
        rate = rates[launch.index]
        if _PRODUCTS & set(launch.ops) and rate.efficiency < _SLOW and rate.bound != "overhead":
            yield _finding(
                "slow product",
                launch.span_us - rate.ideal_us,
                [launch],
                f"{_label(launch)} runs at {rate.efficiency:.0%} of its limit ({rate.bound})",
                "compare -O levels and thread counts with whet bench; report the shape",
            )


def _unfused(program: Program, times: RunTimes) -> Iterator[Finding]:
    """Report pointwise launches that read what an earlier launch stored, and why it was stored."""
    for launch in times.launches:
        if not launch.kernel.startswith("map") or not launch.ops or set(launch.ops) <= _MOVES:
            continue
        reason = _reason(program, launch.index)
        if reason:
            yield _finding(
                "missed fusion",
                launch.span_us,
                [launch],
                f"{_label(launch)} is a pass over memory of its own: {reason}",
                "if the value need not be an output or be read twice, change the model",
            )


def _reason(program: Program, index: int) -> str:
    """Return why no producer of a launch's operands could be fused with it."""
    reasons = []
    launch = program.launches[index]
    for position, buffer in enumerate(launch.args):
        record = program.buffers[buffer]
        if position in launch.writes or record.kind not in (BufferKind.TEMP, BufferKind.OUTPUT):
            continue
        readers = [
            n
            for n, other in enumerate(program.launches)
            if _reads(other.args, other.writes, buffer)
        ]
        if record.kind is BufferKind.OUTPUT:
            reasons.append(f"{record.name} is an output of the model")
        elif len(readers) > 1:
            reasons.append(f"{record.name} is read by {len(readers)} launches")
        else:
            reasons.append(f"{record.name} is read in another order or shape than it is written")
    return "; ".join(dict.fromkeys(reasons))


def _reads(args: tuple[int, ...], writes: tuple[int, ...], buffer: int) -> bool:
    return any(arg == buffer and k not in writes for k, arg in enumerate(args))


def _uneven(times: RunTimes) -> Iterator[Finding]:
    """Report launches that leave threads idle, those of too few chunks apart from the others."""
    idle = [x for x in times.launches if x.balance < _UNEVEN and times.threads > 1]
    for few in (True, False):
        found = [x for x in idle if (x.chunks < times.threads) is few]
        if not found:
            continue
        saves = sum(x.span_us * (1 - x.balance) for x in found)
        worst = max(found, key=lambda x: x.span_us * (1 - x.balance))
        why = "they fall into too few chunks" if few else "threads begin or finish late"
        yield _finding(
            "low parallelism",
            saves,
            found,
            f"{_counted(found, 'leave')} threads idle because {why}, most of all {_label(worst)}",
            "use fewer threads and more requests at once, or a larger batch"
            if few
            else "see whether other processes use the CPUs; profile again on a quiet machine",
        )


def _quantisable(times: RunTimes, rates: dict[int, Rate]) -> Iterator[Finding]:
    dense = [
        x for x in times.launches if _PRODUCTS & set(x.ops) and rates[x.index].bound == "compute"
    ]
    if dense:
        spent = sum(x.span_us for x in dense)
        yield _finding(
            "quantisation",
            spent * _INT8_GAIN,
            dense,
            f"{spent:.0f} us go to {counted(len(dense), 'product')} bound by float arithmetic",
            "int8 weights and activations, if the accuracy allows (whet verify)",
        )


def _waiting(times: RunTimes) -> Iterator[Finding]:
    waits = sum(x.wait_us for x in times.launches) / max(times.threads, 1)
    if times.threads > 1 and waits > MEDIUM * times.wall_us:
        yield _finding(
            "waiting",
            waits,
            list(times.launches),
            f"threads wait {waits:.0f} us of a run for one another",
            "fewer threads, or one thread and several requests at once (whet bench --streams)",
        )


def _tiny(times: RunTimes) -> Iterator[Finding]:
    tiny = [x for x in times.launches if x.span_us < 5.0]
    if len(tiny) > len(times.launches) / 2:
        yield _finding(
            "small launches",
            sum(x.span_us for x in tiny) / 2,
            tiny,
            f"{len(tiny)} of {counted(len(times.launches), 'launch', 'launches')} below 5 us",
            "a larger batch: the work of a launch hardly covers its barrier",
        )


def _counted(launches: list[LaunchTime], verb: str) -> str:
    """Return what so many launches do, as in ``2 launches leave``."""
    return f"1 launch {verb}s" if len(launches) == 1 else f"{len(launches)} launches {verb}"

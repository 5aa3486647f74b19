"""Memory over a run: what lives when, how far it is shared, and who causes the peak."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from whet.program.context import segments_of
from whet.program.plan import find_liveness, plan_memory
from whet.program.records import BufferKind, Program


class LiveBuffer(msgspec.Struct, frozen=True, kw_only=True):
    """A temporary of the program.

    Attributes:
        buffer: its number.
        name: the value that it mostly holds.
        bytes: its size.
        offset: where it lies in the arena.
        first: first launch of the first segment that needs it.
        last: last launch of the last segment that needs it.
        writers: kernels that write it.
    """

    buffer: int
    name: str
    bytes: int
    offset: int
    first: int
    last: int
    writers: tuple[str, ...]


class MemoryStep(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of launches between barriers and the bytes that live meanwhile."""

    first: int
    last: int
    live_bytes: int


class MemoryTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one run.

    Attributes:
        arena_bytes: what the plan takes.
        temporary_bytes: what all temporaries would take without sharing, scratch memory included.
        peak_bytes: most bytes that live at once; the arena cannot be smaller.
        peak_launch: first launch of that stretch.
        weight_bytes: constants.
        scratch_bytes: the largest scratch memory, for all threads; it lies in the arena.
        buffers: every temporary, scratch memory included.
        steps: live bytes over the run.
        at_peak: numbers of the buffers that live at the peak, largest first.
    """

    arena_bytes: int
    temporary_bytes: int
    peak_bytes: int
    peak_launch: int
    weight_bytes: int
    scratch_bytes: int
    buffers: tuple[LiveBuffer, ...]
    steps: tuple[MemoryStep, ...]
    at_peak: tuple[int, ...]


def trace_memory(program: Program, dims: Mapping[str, int], threads: int = 1) -> MemoryTimeline:
    """Return what a run keeps in memory, launch by launch.

    Args:
        program: the program.
        dims: values of its run-time dimensions.
        threads: threads of a run, each with scratch memory of its own.
    """
    segments = segments_of(program.launches)
    live = find_liveness(program)
    plan = plan_memory(program, dims, live, threads=threads)
    sizes = live.sizes_in(dims, threads)
    steps = [
        MemoryStep(
            first=segment.start,
            last=segment.stop - 1,
            live_bytes=sum(
                sizes[b] for b, (first, last) in live.spans.items() if first <= n <= last
            ),
        )
        for n, segment in enumerate(segments)
    ]
    peak = max(range(len(steps)), key=lambda n: steps[n].live_bytes, default=0)
    at_peak = [b for b, (first, last) in live.spans.items() if first <= peak <= last]
    return MemoryTimeline(
        arena_bytes=plan.arena_bytes,
        temporary_bytes=sum(sizes.values()),
        peak_bytes=steps[peak].live_bytes if steps else 0,
        peak_launch=steps[peak].first if steps else 0,
        weight_bytes=_weight_bytes(program),
        scratch_bytes=max((sizes[b] for b in live.scratch), default=0),
        buffers=tuple(
            LiveBuffer(
                buffer=b,
                name=program.buffers[b].name,
                bytes=sizes[b],
                offset=plan.offsets[b],
                first=segments[first].start,
                last=segments[last].stop - 1,
                writers=_writers(program, b),
            )
            for b, (first, last) in sorted(live.spans.items())
        ),
        steps=tuple(steps),
        at_peak=tuple(sorted(at_peak, key=lambda b: (-sizes[b], b))),
    )


def _weight_bytes(program: Program) -> int:
    """Return the bytes of constants; several buffers may share a place."""
    places = {
        b.offset: b.size_bytes.constant or 0
        for b in program.buffers
        if b.kind is BufferKind.CONSTANT
    }
    return sum(places.values())


def _writers(program: Program, buffer: int) -> tuple[str, ...]:
    found = (
        launch.kernel
        for launch in program.launches
        if buffer in (launch.scratch, *(launch.args[position] for position in launch.writes))
    )
    return tuple(dict.fromkeys(found))

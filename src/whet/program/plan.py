"""The memory plan: where each temporary lies in the one arena of a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from whet.index import Poly
from whet.program.context import segments_of
from whet.program.records import BufferKind, Part, Program

ALIGNMENT = 64


class Liveness(msgspec.Struct, frozen=True):
    """When temporaries are needed; it does not depend on dimensions.

    Attributes:
        spans: first and last segment in use, by buffer index.
        conflicts: for each temporary, the others that are live at the same time.
        sizes: the different sizes in bytes, each with the temporaries that have it.
    """

    spans: dict[int, tuple[int, int]]
    conflicts: dict[int, tuple[int, ...]]
    sizes: tuple[tuple[Poly, tuple[int, ...]], ...]


class MemoryPlan(msgspec.Struct, frozen=True):
    """Where temporaries lie.

    Attributes:
        offsets: start in the arena by buffer index, a multiple of 64 bytes.
        arena_bytes: size of the arena.
    """

    offsets: dict[int, int]
    arena_bytes: int


def find_liveness(program: Program) -> Liveness:
    """Return when each temporary is live, in segments between barriers.

    Launches of one segment run at the same time, so memory passes from one buffer to another
    only across a barrier; hence a plan needs no further barriers, whatever the dimensions.
    """
    spans: dict[int, tuple[int, int]] = {}
    for number, segment in enumerate(segments_of(program.launches)):
        for index in segment:
            for buffer in program.launches[index].args:
                if program.buffers[buffer].kind is BufferKind.TEMP:
                    spans[buffer] = (spans.get(buffer, (number, number))[0], number)
    return _conflicts(program, spans)


def part_liveness(program: Program, part: Part) -> Liveness:
    """Return when each temporary of one part is live; parts share no temporaries."""
    live = find_liveness(program)
    own = {b for launch in program.launches[part.begin : part.end] for b in launch.args}
    spans = {b: span for b, span in live.spans.items() if b in own}
    conflicts = {b: tuple(o for o in live.conflicts[b] if o in own) for b in spans}
    return Liveness(spans, conflicts, _sizes(program, spans))


def _sizes(
    program: Program, temporaries: Iterable[int]
) -> tuple[tuple[Poly, tuple[int, ...]], ...]:
    """Return the different sizes: a plan for new dimensions evaluates each of them once."""
    found: dict[Poly, list[int]] = {}
    for buffer in temporaries:
        found.setdefault(program.buffers[buffer].size_bytes, []).append(buffer)
    return tuple((size, tuple(buffers)) for size, buffers in found.items())


def _conflicts(program: Program, spans: dict[int, tuple[int, int]]) -> Liveness:
    if not program.reuse:
        everyone = tuple(spans)
        return Liveness(spans, dict.fromkeys(spans, everyone), _sizes(program, spans))
    conflicts: dict[int, list[int]] = {buffer: [] for buffer in spans}
    active: list[int] = []
    for buffer in sorted(spans, key=lambda b: (spans[b], b)):
        first = spans[buffer][0]
        active = [other for other in active if spans[other][1] >= first]
        for other in active:
            conflicts[other].append(buffer)
            conflicts[buffer].append(other)
        active.append(buffer)
    settled = {buffer: tuple(others) for buffer, others in conflicts.items()}
    return Liveness(spans, settled, _sizes(program, spans))


def plan_memory(
    program: Program, dims: Mapping[str, int], liveness: Liveness | None = None
) -> MemoryPlan:
    """Place temporaries, the largest first, each in the tightest gap that is free while it lives.

    Args:
        program: the program, with its ``waits`` assigned.
        dims: values of the run-time dimensions.
        liveness: result of ``find_liveness``, if at hand.
    """
    live = liveness or find_liveness(program)
    sizes: dict[int, int] = {}
    for poly, buffers in live.sizes:
        sizes.update(dict.fromkeys(buffers, _aligned(poly.evaluate(dims))))
    offsets: dict[int, int] = {}
    top = 0
    for buffer in sorted(sizes, key=lambda b: (-sizes[b], live.spans[b], b)):
        size = sizes[buffer]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in live.conflicts[buffer]
            if other in offsets
        )
        offsets[buffer] = place = _tightest(taken, size)
        top = max(top, place + size)
    return MemoryPlan(offsets, top)


def check_plan(program: Program, dims: Mapping[str, int], plan: MemoryPlan) -> list[str]:
    """Return every breach of a plan: overlaps of live buffers, misalignment, overruns."""
    live = find_liveness(program)
    sizes = {b: program.buffers[b].size_bytes.evaluate(dims) for b in live.spans}
    faults = [f"buffer {b} has no place" for b in live.spans if b not in plan.offsets]
    placed = sorted(b for b in live.spans if b in plan.offsets)
    for position, a in enumerate(placed):
        begin, end = plan.offsets[a], plan.offsets[a] + sizes[a]
        if begin % ALIGNMENT or begin < 0 or end > plan.arena_bytes:
            faults.append(f"buffer {a} at {begin}..{end} is misaligned or outside the arena")
        for b in placed[position + 1 :]:
            apart = live.spans[a][1] < live.spans[b][0] or live.spans[b][1] < live.spans[a][0]
            shared = begin < plan.offsets[b] + sizes[b] and plan.offsets[b] < end
            if shared and not (apart and program.reuse):
                faults.append(f"buffers {a} and {b} overlap while both are live")
    return faults


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _tightest(taken: list[tuple[int, int]], size: int) -> int:
    """Return the start of the smallest sufficient gap, or the end of what is taken."""
    best, best_gap, cursor = -1, -1, 0
    for begin, end in taken:
        gap = begin - cursor
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = cursor, gap
        cursor = max(cursor, end)
    return best if best >= 0 else cursor

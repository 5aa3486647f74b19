"""The memory plan: where each temporary lies in the one arena of a program.

The scratch memory of the threads is temporary too: it is needed between two barriers, and lies
where other temporaries are not alive then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import msgspec

from whet.index import Poly
from whet.program.context import scratch_stride, segments_of
from whet.program.records import NO_SCRATCH, BufferKind, Launch, Part, Program

ALIGNMENT = 64


class Liveness(msgspec.Struct, frozen=True):
    """When temporaries are needed; it does not depend on dimensions.

    Attributes:
        spans: first and last segment in use, by buffer index.
        conflicts: for each temporary, the others that are live at the same time.
        sizes: the different sizes in bytes, each with the temporaries that have it.
        scratch: bytes for each thread, by buffer index of scratch memory.
    """

    spans: dict[int, tuple[int, int]]
    conflicts: dict[int, tuple[int, ...]]
    sizes: tuple[tuple[Poly, tuple[int, ...]], ...]
    scratch: dict[int, int]

    def sizes_in(self, dims: Mapping[str, int], threads: int) -> dict[int, int]:
        """Return the bytes of each temporary for given dimensions and a number of threads."""
        found: dict[int, int] = {}
        for poly, buffers in self.sizes:
            found.update(dict.fromkeys(buffers, poly.evaluate(dims)))
        for buffer, size in self.scratch.items():
            found[buffer] = scratch_stride(size) * threads
        return found


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
            for buffer in touched(program.launches[index]):
                if program.buffers[buffer].kind in (BufferKind.TEMP, BufferKind.SCRATCH):
                    spans[buffer] = (spans.get(buffer, (number, number))[0], number)
    conflicts = _conflicts(spans) if program.reuse else dict.fromkeys(spans, tuple(spans))
    return _liveness(program, spans, conflicts)


def touched(launch: Launch) -> tuple[int, ...]:
    """Return the buffers of a launch, with its scratch memory."""
    return launch.args if launch.scratch == NO_SCRATCH else (*launch.args, launch.scratch)


def part_liveness(program: Program, part: Part) -> Liveness:
    """Return when each temporary of one part is live; parts share no temporaries."""
    live = find_liveness(program)
    own = {b for launch in program.launches[part.begin : part.end] for b in touched(launch)}
    spans = {b: span for b, span in live.spans.items() if b in own}
    conflicts = {b: tuple(o for o in live.conflicts[b] if o in own) for b in spans}
    return _liveness(program, spans, conflicts)


def _liveness(
    program: Program, spans: dict[int, tuple[int, int]], conflicts: dict[int, tuple[int, ...]]
) -> Liveness:
    """Return what is known of temporaries with their different sizes.

    A plan for new dimensions evaluates each of those once.
    """
    sizes: dict[Poly, list[int]] = {}
    scratch: dict[int, int] = {}
    for buffer in spans:
        size = program.buffers[buffer].size_bytes
        if program.buffers[buffer].kind is BufferKind.SCRATCH:
            scratch[buffer] = size.constant or 0
        else:
            sizes.setdefault(size, []).append(buffer)
    distinct = tuple((size, tuple(buffers)) for size, buffers in sizes.items())
    return Liveness(spans, conflicts, distinct, scratch)


def _conflicts(spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    conflicts: dict[int, list[int]] = {buffer: [] for buffer in spans}
    active: list[int] = []
    for buffer in sorted(spans, key=lambda b: (spans[b], b)):
        first = spans[buffer][0]
        active = [other for other in active if spans[other][1] >= first]
        for other in active:
            conflicts[other].append(buffer)
            conflicts[buffer].append(other)
        active.append(buffer)
    return {buffer: tuple(others) for buffer, others in conflicts.items()}


def plan_memory(
    program: Program,
    dims: Mapping[str, int],
    liveness: Liveness | None = None,
    *,
    threads: int = 1,
) -> MemoryPlan:
    """Place temporaries one after the other, each in the tightest gap that is free while it lives.

    The largest come first; if that takes more than what lives at once, those that are large for
    long are tried first too.

    Args:
        program: the program, with its ``waits`` assigned.
        dims: values of the run-time dimensions.
        liveness: result of ``find_liveness``, if at hand.
        threads: how many have scratch memory.
    """
    live = liveness or find_liveness(program)
    sizes = {b: _aligned(size) for b, size in live.sizes_in(dims, threads).items()}
    plan = _placed(live, sizes, lambda b: -sizes[b])
    if plan.arena_bytes > most_live(live, sizes):
        spans = live.spans
        other = _placed(live, sizes, lambda b: -sizes[b] * (spans[b][1] - spans[b][0] + 1))
        plan = min(plan, other, key=lambda p: p.arena_bytes)
    return plan


def most_live(live: Liveness, sizes: Mapping[int, int]) -> int:
    """Return the most bytes that live at once; no plan takes less."""
    changes: dict[int, int] = {}
    for buffer, (first, last) in live.spans.items():
        changes[first] = changes.get(first, 0) + sizes[buffer]
        changes[last + 1] = changes.get(last + 1, 0) - sizes[buffer]
    return max(accumulate(changes[n] for n in sorted(changes)), default=0)


def _placed(live: Liveness, sizes: Mapping[int, int], rank: Callable[[int], int]) -> MemoryPlan:
    """Return a plan in which temporaries are placed in order of their rank."""
    offsets: dict[int, int] = {}
    top = 0
    for buffer in sorted(sizes, key=lambda b: (rank(b), live.spans[b], b)):
        size = sizes[buffer]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in live.conflicts[buffer]
            if other in offsets
        )
        offsets[buffer] = place = _tightest(taken, size)
        top = max(top, place + size)
    return MemoryPlan(offsets, top)


def check_plan(
    program: Program, dims: Mapping[str, int], plan: MemoryPlan, *, threads: int = 1
) -> list[str]:
    """Return every breach of a plan: overlaps of live buffers, misalignment, overruns."""
    live = find_liveness(program)
    sizes = live.sizes_in(dims, threads)
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

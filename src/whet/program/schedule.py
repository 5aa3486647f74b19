"""Where threads must wait for each other between launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from whet.program.records import Buffer, BufferKind, Launch

Interval = tuple[int, int]


@dataclass(slots=True)
class _Touched:
    """What the launches since the last barrier read and wrote."""

    read: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    ranges_read: list[Interval] = field(default_factory=list)
    ranges_written: list[Interval] = field(default_factory=list)


def assign_waits(
    launches: Sequence[Launch],
    buffers: Sequence[Buffer],
    offsets: Mapping[int, Interval] | None = None,
) -> tuple[Launch, ...]:
    """Set ``waits`` on each launch that touches what an unfinished one before it writes or reads.

    A barrier is needed where a launch reads what an earlier one writes, writes what an earlier
    one reads or writes, or does so through memory that two buffers share.

    Args:
        launches: launches in order; their ``waits`` are ignored.
        buffers: the program's buffers.
        offsets: ``(begin, end)`` in the arena by buffer index, if memory was planned with sharing
            between launches of one segment. A plan by ``plan_memory`` never does that, so that it
            needs no offsets here.
    """
    ranges = offsets or {}
    since = _Touched()
    result: list[Launch] = []
    for launch in launches:
        written = {launch.args[position] for position in launch.writes}
        read = {b for b in launch.args if buffers[b].kind is not BufferKind.CONSTANT} - written
        at_write = [ranges[b] for b in sorted(written) if b in ranges]
        at_read = [ranges[b] for b in sorted(read) if b in ranges]
        waits = bool(result) and (
            bool(written & (since.read | since.written) or read & since.written)
            or _meet(at_write, since.ranges_read + since.ranges_written)
            or _meet(at_read, since.ranges_written)
        )
        if waits:
            since = _Touched()
        since.read |= read
        since.written |= written
        since.ranges_read += at_read
        since.ranges_written += at_write
        result.append(replace(launch, waits=waits))
    return tuple(result)


def _meet(left: Sequence[Interval], right: Sequence[Interval]) -> bool:
    return any(a < d and c < b for a, b in left for c, d in right)

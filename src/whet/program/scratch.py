"""Which launches get which scratch memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from whet.index import as_poly
from whet.program.context import segments_of
from whet.program.records import Buffer, BufferKind, Launch


def assign_scratch(
    launches: Sequence[Launch], buffers: list[Buffer], needs: Mapping[str, int]
) -> tuple[Launch, ...]:
    """Give launches the scratch memory that they need.

    Those between the same barriers take the same: a thread does one after the other.

    Args:
        launches: launches in order, with their ``waits`` assigned; the first one begins a segment.
        buffers: the program's buffers; those of scratch memory are added.
        needs: bytes that a thread needs, by kernel.
    """
    result = list(launches)
    for segment in segments_of(launches):
        most = max(needs[launches[k].kernel] for k in segment)
        if not most:
            continue
        buffers.append(Buffer(BufferKind.SCRATCH, as_poly(most), "scratch"))
        for k in segment:
            if needs[launches[k].kernel]:
                result[k] = replace(launches[k], scratch=len(buffers) - 1)
    return tuple(result)

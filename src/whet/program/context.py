"""The memory that generated code and the runtime share: one record says where everything is.

All slots are 8 bytes. Fields that threads write are alone on their cache line.

    0     what a run reads: threads, scratch, profile, outside functions, which part
    64    generation: odd while a run is open; threads sleep on it between runs
    128   stop: not zero once the threads must leave
    192   idle: how many threads sleep on the generation
    256   phase: counts finished segments; threads sleep on it inside a run
    320   sleepers: how many threads sleep on the phase
    384   dims, then buffer pointers, then one line per segment (chunks finished),
          then one line per launch and thread (chunks claimed), then one line per thread (how
          long it spins)

The chunk words hold ``generation << 32 | count``, so nothing is cleared between runs and a thread
that wakes up late, after its run has ended, cannot claim anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from whet.program.records import Launch, Program

LINE = 64
SLOT = 8

THREADS = 0
SCRATCH = 8
SCRATCH_STRIDE = 16
PROFILE = 24
SYSCALL = 32
CLOCK = 40
SPIN_NS = 48
PART = 56
GENERATION = 64
STOP = 128
IDLE = 192
PHASE = 256
SLEEPERS = 320
DIMS = 384


class ContextLayout(msgspec.Struct, frozen=True):
    """Where the tables of one program lie in its context.

    Attributes:
        dims: number of run-time dimensions.
        buffers: number of buffers.
        launches: number of launches.
        segments: number of stretches of launches between barriers.
    """

    dims: int
    buffers: int
    launches: int
    segments: int

    @property
    def buffer_table(self) -> int:
        """Offset of the buffer pointers."""
        return DIMS + _lines(self.dims * SLOT)

    @property
    def finished(self) -> int:
        """Offset of the words that count finished chunks, one line per segment."""
        return self.buffer_table + _lines(self.buffers * SLOT)

    @property
    def claimed(self) -> int:
        """Offset of the words that count claimed chunks, one line per launch and thread."""
        return self.finished + self.segments * LINE

    def size_bytes(self, threads: int) -> int:
        """Return the size of a context for a number of threads."""
        return self.claimed + (self.launches + 1) * threads * LINE


def scratch_stride(size: int) -> int:
    """Return how far apart the scratch memory of two threads lies, of which each needs ``size``."""
    return _lines(size) + LINE


def layout_of(program: Program) -> ContextLayout:
    """Return the context layout of a program."""
    return ContextLayout(
        dims=len(program.dims),
        buffers=len(program.buffers),
        launches=len(program.launches),
        segments=len(segments_of(program.launches)),
    )


def segments_of(launches: Sequence[Launch]) -> list[range]:
    """Split launches at barriers; those of one segment may run at the same time."""
    starts = [i for i, launch in enumerate(launches) if i == 0 or launch.waits]
    ends = [*starts[1:], len(launches)]
    return [range(a, b) for a, b in zip(starts, ends, strict=False)]


def profile_slots(launches: int, threads: int) -> int:
    """Return the 8-byte slots of a profile: begin and end in ns per thread and launch."""
    return 2 * launches * threads


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE

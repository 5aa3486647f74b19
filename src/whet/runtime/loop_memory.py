"""What the trips of loops take beyond what they are given, as long as there is memory for it.

A carried value that grows, a sequence that gets longer: each block alone may be small, and Linux
gives blocks that it does not have and kills for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.errors import ResourceError
from whet.limits import free_bytes, machine_bytes
from whet.runtime.elements import Elements

VALUE_BYTES = 400
"""What an array takes beside its elements."""

_POINTER_BYTES = 8
_LOOK_EVERY_BYTES = 1 << 26
"""So much is made between two looks at the machine, which take 0.1 ms."""

_RESERVE_PARTS, _RESERVE_BYTES = 16, 1 << 30
"""What is left alone: one part of this many of the memory, or so many bytes."""


class LoopMemory:
    """Counts what the trips of one run's loops make, and looks whether there is memory for more.

    Attributes:
        loops: the loops that run now, the innermost last.
    """

    def __init__(self) -> None:
        self.loops: list[str] = []
        self._made = 0

    def take(self, size: int) -> None:
        """Announce that memory is about to be taken.

        Raises:
            ResourceError: little would be left then.
        """
        self._made += size
        if self._made <= _LOOK_EVERY_BYTES:
            return
        self._made = 0
        left = free_bytes() - min(machine_bytes() // _RESERVE_PARTS, _RESERVE_BYTES)
        if size > left:
            raise ResourceError(
                f"the next step of a loop takes {size} bytes, of which {max(left, 0)} are left",
                where=self.loops[-1] if self.loops else None,
                hint="let it make fewer trips, or carry and collect less",
            )


def result_bytes(function: str, arguments: Sequence[Any]) -> int:
    """Return about how many bytes a function of the host makes of its arguments."""
    values: Sequence[Any] = arguments
    if function == "ConcatFromSequence" and isinstance(arguments[0], Elements):
        values = arguments[0].copied()
    elif function == "SequenceInsert" and len(arguments) == 2:
        values = arguments[1:]  # at the end: it shares what was there
    return sum(_bytes(value) for value in values) + VALUE_BYTES


def _bytes(value: Any) -> int:
    """Return the size of a value, but for the elements of a sequence, which a copy shares."""
    if isinstance(value, Elements):
        return _POINTER_BYTES * len(value)
    if not isinstance(value, np.ndarray):
        return 0
    texts = sum(map(len, value.reshape(-1).tolist())) if value.dtype == object else 0
    return value.nbytes + texts

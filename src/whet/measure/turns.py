"""Longer turns on the CPU while calls are timed, where the system lets a thread ask for them.

Linux gives a CPU that several programs want to each of them in turn, for about a millisecond; so on
a busy machine most calls are interrupted. From Linux 6.12 on a thread may ask for longer turns
(``sched_setattr`` with a run time). It gets no more of the CPU by that: it waits longer in between.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

TURN_NS = 100_000_000
"""The longest turn that Linux gives."""

_SET_AND_GET = {"x86_64": (314, 315), "aarch64": (274, 275)}
_FORM = "IIQiIQQQ"
"""``struct sched_attr``: size, policy, flags, nice, priority, runtime, deadline, period."""

_SIZE = struct.calcsize(_FORM)
_OTHER = 0
"""The policy of ordinary programs."""


@contextmanager
def long_turns() -> Iterator[bool]:
    """Ask for long turns for this thread and those that it starts meanwhile.

    Yields:
        Whether the system grants them.
    """
    before = _read()
    if before is None or before[1] != _OTHER:
        yield False
        return
    try:
        yield _write((*before[:5], TURN_NS, *before[6:]))
    finally:
        _write(before)


def _read() -> tuple[int, ...] | None:
    """Return the attributes of this thread; ``None`` where they are not known."""
    buffer = ctypes.create_string_buffer(_SIZE)
    if _call(1, 0, buffer, _SIZE, 0) != 0:
        return None
    return struct.unpack(_FORM, buffer.raw)


def _write(attributes: tuple[int, ...]) -> bool:
    return _call(0, 0, ctypes.create_string_buffer(struct.pack(_FORM, *attributes), _SIZE), 0) == 0


def _call(which: int, *arguments: object) -> int:
    numbers = _SET_AND_GET.get(platform.machine())
    if numbers is None:
        return -1
    result: int = ctypes.CDLL(None).syscall(numbers[which], *arguments)
    return result

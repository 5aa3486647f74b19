"""Hardware counters of this process through ``perf_event_open``, where the kernel allows it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_HARDWARE = {
    "cycles": 0,
    "instructions": 1,
    "cache_references": 2,
    "cache_misses": 3,
    "branches": 4,
    "branch_misses": 5,
}
_ATTRIBUTE_BYTES = 112
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_ENABLED_AND_RUNNING = 1 | 2
_REASONS = {
    errno.ENOENT: "the processor offers none here, as in most virtual machines",
    errno.EOPNOTSUPP: "the processor offers none here, as in most virtual machines",
}
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one piece of work by all threads that it started.

    Attributes:
        counts: by event, scaled up where counters had to take turns.
        problem: why there are none.
    """

    counts: dict[str, float] = {}
    problem: str = ""


def count_events(work: Callable[[], object]) -> Counters:
    """Do some work and count hardware events of this thread and those started meanwhile."""
    handles: dict[str, int] = {}
    problem = ""
    for name, event in _HARDWARE.items():
        handle, error = _open(event)
        if handle >= 0:
            handles[name] = handle
        else:
            problem = _REASONS.get(error) or os.strerror(error)
    try:
        before = {name: _read(handle) for name, handle in handles.items()}
        work()
        after = {name: _read(handle) for name, handle in handles.items()}
    finally:
        for handle in handles.values():
            os.close(handle)
    counts = {name: _scaled(before[name], after[name]) for name in handles}
    known = {name: count for name, count in counts.items() if count is not None}
    if known:
        return Counters(counts=known)
    level = _PARANOID.read_text().strip() if _PARANOID.exists() else "unknown"
    reason = problem or "the counters did not run"
    return Counters(problem=f"{reason} (kernel.perf_event_paranoid is {level})")


def _open(event: int) -> tuple[int, int]:
    """Return a handle for a hardware event, or -1 and the error number."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        return -1, errno.ENOSYS
    flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
    attribute = struct.pack(
        "=IIQQQQQ", 0, _ATTRIBUTE_BYTES, event, 0, 0, _ENABLED_AND_RUNNING, flags
    ).ljust(_ATTRIBUTE_BYTES, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_char_p(attribute),
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_int(-1),
        ctypes.c_ulong(8),  # close on exec
    )
    return int(handle), ctypes.get_errno()


def _read(handle: int) -> tuple[int, int, int]:
    """Return count, ns enabled and ns running."""
    value, enabled, running = struct.unpack("=QQQ", os.read(handle, 24))
    return value, enabled, running


def _scaled(before: tuple[int, int, int], after: tuple[int, int, int]) -> float | None:
    value, enabled, running = (b - a for a, b in zip(before, after, strict=True))
    return value * enabled / running if running else None

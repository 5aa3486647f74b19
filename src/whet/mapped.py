"""Files mapped for reading that may change or shrink under us.

Reading a mapped page that its file no longer has raises SIGBUS, which ends the process. Here such
a page reads as zeros instead, and the mapping remembers it, so that whoever used the bytes can
say so: a signal handler puts anonymous memory in the place of what is missing. Signals of other
origin go where they went before.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

_SIGSET_BYTES = 128
_SA_SIGINFO = 4
_ADDRESS_OFFSET = 16
"""Of ``si_addr`` in ``siginfo_t``, on 64-bit Linux."""

_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """``struct sigaction`` of 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * _SIGSET_BYTES),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


LARGE_FROM_BYTES = 64 << 20
"""Size from which on a mapping asks for large pages; smaller ones may be touched in few places."""


class MappedFile:
    """A part of a file, mapped for reading.

    Args:
        handle: an open file; it may be closed afterwards.
        offset: where the part starts.
        size: its length, at least 1 byte.

    Attributes:
        stamp_address: where native code finds a descriptor of the file, its size, and when it was
            written, in seconds and ns: words of 8 bytes.
        lost: whether a page was read that the file no longer has.

    Raises:
        OSError: the part cannot be mapped.
    """

    def __init__(self, handle: int, offset: int, size: int) -> None:
        skip = offset % mmap.ALLOCATIONGRANULARITY
        self.mapping = mmap.mmap(
            handle, size + skip, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=offset - skip
        )
        self.view = memoryview(self.mapping)[skip:]
        self.lost = False
        self._handle = os.dup(handle)
        weakref.finalize(self, os.close, self._handle)
        self._stamp = (ctypes.c_int64 * 4)()
        self.stamp_address = ctypes.addressof(self._stamp)
        self.accept()
        self.begin = _address_of(self.mapping)
        self.end = self.begin + -(-(size + skip) // mmap.PAGESIZE) * mmap.PAGESIZE
        _guard().add(self)

    def prefer_large_pages(self) -> None:
        """Ask for large pages where the file is not in memory yet, and is worth it.

        What the kernel then reads lies in pieces of 2 MiB, each with one entry in the page table.
        Where the system has no such pages for files nothing changes.
        """
        if self.end - self.begin >= LARGE_FROM_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):
                self.mapping.madvise(mmap.MADV_HUGEPAGE)

    def changed(self) -> bool:
        """Tell whether the file was written or cut since it was mapped, or since ``accept``."""
        return self.lost or self._state() != tuple(self._stamp)

    def accept(self) -> None:
        """Take the file as it is now: its content was found to be the same."""
        self._stamp[:] = list(self._state())

    def _state(self) -> tuple[int, int, int, int]:
        state = os.fstat(self._handle)
        return self._handle, state.st_size, *divmod(state.st_mtime_ns, 10**9)


def _address_of(buffer: mmap.mmap) -> int:
    """Return where a read-only mapping starts, without NumPy, which loading must not need."""
    holder = ctypes.py_object(buffer)
    view = (ctypes.c_char * 80)()  # room for a Py_buffer
    python = ctypes.pythonapi
    python.PyObject_GetBuffer(holder, view, 0)
    try:
        return ctypes.c_void_p.from_buffer(view).value or 0
    finally:
        python.PyBuffer_Release(view)


class _Guard:
    """The handler of SIGBUS, and the mappings that it looks after."""

    def __init__(self) -> None:
        self._ranges: tuple[tuple[int, int, weakref.ref[MappedFile]], ...] = ()
        self._lock = threading.Lock()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._library.mmap.restype = ctypes.c_void_p
        self._library.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self._previous = _Action()
        self._callback: Callable[..., None] = _HANDLER(self._on_fault)
        address = ctypes.cast(self._callback, ctypes.c_void_p).value
        action = _Action(handler=address, flags=_SA_SIGINFO)
        self._library.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(self._previous))

    def add(self, file: MappedFile) -> None:
        """Look after a mapping as long as it lives."""
        with self._lock:
            alive = [r for r in self._ranges if r[2]() is not None]
            self._ranges = (*alive, (file.begin, file.end, weakref.ref(file)))

    def _on_fault(self, _: int, info: int, __: int) -> None:
        """Put zeros in the place of a page that its file has lost, and of all behind it.

        The fault comes from a plain read of memory, so that Python may run here: the thread holds
        no lock of the C library, and takes the interpreter's like any callback.
        """
        address = ctypes.c_uint64.from_address(info + _ADDRESS_OFFSET).value
        for begin, end, reference in self._ranges:
            file = reference()
            if file is None or not begin <= address < end:
                continue
            page = address - address % mmap.PAGESIZE
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            made = self._library.mmap(page, end - page, mmap.PROT_READ, flags, -1, 0)
            if made != _FAILED:
                file.lost = True
                return
        # Not ours: the read is repeated, and whoever was there before hears of it.
        self._library.sigaction(signal.SIGBUS, ctypes.byref(self._previous), None)


@functools.cache
def _guard() -> _Guard:
    return _Guard()

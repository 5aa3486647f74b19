"""Memory for the weights of a program, made ready while the compiler is still at work."""

from __future__ import annotations

import mmap
import threading

import numpy as np

_HUGE_FROM_BYTES = 8 * 2**20
_PIECE_BYTES = 64 * 2**20


class Room:
    """Zeroed memory; its pages may be made on another thread until it is taken.

    A page is cleared when it is first written, and where a hypervisor has to find it first that
    takes longer: 435 MB took 0.05 to 0.9 s on a virtual machine, while one thread was idle.

    Args:
        expected_bytes: how much will probably be asked for.
    """

    def __init__(self, expected_bytes: int) -> None:
        self._expected = max(expected_bytes, 1)
        self._block: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._closed = False

    def make_pages(self) -> None:
        """Touch all that is expected, piece by piece, until the room is taken or closed."""
        for begin in range(0, self._expected, _PIECE_BYTES):
            with self._lock:
                if self._closed:
                    return
                if self._block is None:
                    self._block = _map(self._expected)
                size = min(_PIECE_BYTES, self._expected - begin)
                np.frombuffer(self._block, np.uint8, size, begin)[:: mmap.PAGESIZE] = 0

    def close(self) -> None:
        """Make no more pages; waits for the piece that is being made."""
        with self._lock:
            self._closed = True

    def take(self, size: int) -> np.ndarray:
        """Return so many zeroed bytes, whose other pages take memory only when they are written.

        A room is taken once.
        """
        self.close()
        size = max(size, 1)
        if self._block is None:
            self._block = _map(size)
        elif size != self._expected:
            self._block.resize(size)
            _prefer_large_pages(self._block, size)
        return np.frombuffer(self._block, np.uint8)


def _map(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _prefer_large_pages(block, size)
    return block


def _prefer_large_pages(block: mmap.mmap, size: int) -> None:
    if size >= _HUGE_FROM_BYTES:
        block.madvise(mmap.MADV_HUGEPAGE)

"""Arrays between pages that nobody may touch: a read or write outside them ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_NO_ACCESS = 0


def fenced(array: Array, *, at_end: bool) -> Array:
    """Return a copy that touches a forbidden page: with its last byte, or with its first.

    The pages are never given back, as a view of them may live as long as the process.
    """
    size = max(array.nbytes, 1)
    pages = -(-size // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    offset = mmap.PAGESIZE * (pages + 1) - array.nbytes if at_end else mmap.PAGESIZE
    copy: Array = np.frombuffer(area, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages + 1):
        where = ctypes.c_void_p(start + page * mmap.PAGESIZE)
        if libc.mprotect(where, ctypes.c_size_t(mmap.PAGESIZE), _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    return copy

"""Machine code in memory: mapped readable and executable, never writable."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from whet.errors import ArtifactError, ResourceError

ENTRY_POINTS = ("whet_start", "whet_worker", "whet_stop")
WATCHING = "whet_start_watching"
"""Runs the program and looks at a file behind it; older compiled files have no such function."""


class NativeCode(msgspec.Struct, frozen=True):
    """A mapped image and its entry points.

    Attributes:
        address: where the image starts.
        size_bytes: how long it is.
        start: runs the program once; takes the context's address.
        worker: a helper thread's whole life; takes the context's address and a thread number.
        stop: sends the helpers of a context home.
        view: the bytes, which also keep the mapping alive.
        start_watching: runs the program once, and then tells whether a file was changed; takes the
            addresses of the context and of the file's stamp. ``None`` in older code.
    """

    address: int
    size_bytes: int
    start: Callable[[int], None]
    worker: Callable[[int, int], None]
    stop: Callable[[int], None]
    view: memoryview
    start_watching: Callable[[int, int], int] | None = None


def map_code(code: bytes | memoryview, symbols: Mapping[str, int]) -> NativeCode:
    """Map code held in memory.

    Raises:
        ResourceError: the system does not allow it.
    """
    try:
        handle = os.memfd_create("whet", os.MFD_CLOEXEC)
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(code)
            return map_file_code(handle, 0, len(code), symbols)
        finally:
            os.close(handle)
    except OSError as error:
        raise ResourceError(
            f"code cannot be mapped executable: {error}",
            hint="the system may forbid executable memory to this process",
        ) from error


def map_file_code(handle: int, offset: int, size: int, symbols: Mapping[str, int]) -> NativeCode:
    """Map code straight from an open file.

    Args:
        handle: the file's descriptor; may be closed afterwards.
        offset: where the code starts, a multiple of 4096.
        size: its length.
        symbols: offsets of functions in the code.

    Raises:
        ArtifactError: an entry point is missing or outside the code.
        OSError: the system refuses to map it.
    """
    for name in ENTRY_POINTS:
        if not 0 <= symbols.get(name, -1) < size:
            raise ArtifactError(f"the code has no function {name!r}")
    if not 0 <= symbols.get(WATCHING, 0) < size:
        raise ArtifactError(f"the code has no function {WATCHING!r}")
    skip = offset % mmap.ALLOCATIONGRANULARITY
    mapping = mmap.mmap(
        handle,
        size + skip,
        flags=mmap.MAP_PRIVATE,
        prot=mmap.PROT_READ | mmap.PROT_EXEC,
        offset=offset - skip,
    )
    view = memoryview(mapping)[skip:]
    base = buffer_address(view)
    one = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    two = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    look = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    watching = symbols.get(WATCHING)
    return NativeCode(
        address=base,
        size_bytes=size,
        start=one(base + symbols["whet_start"]),
        worker=two(base + symbols["whet_worker"]),
        stop=one(base + symbols["whet_stop"]),
        view=view,
        start_watching=None if watching is None else look(base + watching),
    )


def buffer_address(buffer: mmap.mmap | memoryview | bytes) -> int:
    """Return where a buffer starts; the caller keeps it alive."""
    return int(np.frombuffer(buffer, np.uint8, 1).__array_interface__["data"][0])


def outside_functions() -> tuple[int, int]:
    """Return the addresses of the C library's ``syscall`` and ``clock_gettime``."""
    library = ctypes.CDLL(None)
    names = (library.syscall, library.clock_gettime)
    found = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in names]
    return found[0], found[1]

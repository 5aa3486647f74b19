"""Writing constants to the weights section: beside the compiler's work, told apart by samples."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from whet.program.container import digest

SHARED_FROM_BYTES = 2**20
MOST_THREADS = 4
MOST_PENDING_BYTES = 2**28
SAMPLES = 512


class Copies:
    """Constants being copied, with their types converted, while the compiler goes on.

    NumPy lets other threads run, so large ones go in pieces on threads: packing weights into
    panels and touching new pages runs at 1.1 GB/s on one thread, 2.0 on two. What waits to be
    copied keeps its memory, hence there is a limit to it.
    """

    def __init__(self) -> None:
        self._threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[int, list[Future[None]]]] = deque()
        self._bytes = 0

    def start(self, target: np.ndarray, value: np.ndarray) -> None:
        """Copy a small constant; begin to copy a large one."""
        if value.nbytes < SHARED_FROM_BYTES:
            np.copyto(target, value, casting="unsafe")
            return
        while self._bytes > MOST_PENDING_BYTES:
            self._wait_for_oldest()
        pool = self._pool = self._pool or ThreadPoolExecutor(self._threads)
        axis = next((k for k, extent in enumerate(value.shape) if extent >= self._threads), 0)
        targets = np.array_split(target, self._threads, axis)
        values = np.array_split(value, self._threads, axis)
        pieces = [
            pool.submit(np.copyto, part, piece, casting="unsafe")
            for part, piece in zip(targets, values, strict=True)
        ]
        self._pending.append((value.nbytes, pieces))
        self._bytes += value.nbytes

    def finish(self) -> None:
        """Wait until all that was begun is copied."""
        while self._pending:
            self._wait_for_oldest()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _wait_for_oldest(self) -> None:
        size, pieces = self._pending.popleft()
        for piece in pieces:
            piece.result()
        self._bytes -= size


def sampled_digest(value: np.ndarray, dtype: np.dtype[Any]) -> str:
    """Return a digest of some hundred elements: equal constants of a type have equal ones.

    Different ones may have the same, too; whoever asks compares them in full.
    """
    shape = value.shape or (1,)
    places = np.arange(0, value.size, value.size // SAMPLES + 1)
    samples = value.reshape(shape)[np.unravel_index(places, shape)] if value.size else value
    data = samples.astype(dtype).tobytes()
    return f"{value.size} {digest(memoryview(data))}"

"""Python's collector of cyclic garbage, paused while much is made and little of it is dropped.

The collector looks at the young objects again and again while a model is compiled, and nearly all
of them stay. Without a pause that is an eighth of a compilation from a warm cache.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the collector of this process inside a ``with`` block; blocks may overlap.

    What was made meanwhile then counts as old: the next full collection looks at it. A collector
    that was switched off before, or by others meanwhile, is left to them.
    """
    collector = _collector()
    collector.pause()
    try:
        yield
    finally:
        collector.resume()


class _Collector:
    """The process has one collector, hence one count of who wants it paused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = 0
        self._was_on = False

    def pause(self) -> None:
        with self._lock:
            if self._pauses == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._pauses += 1

    def resume(self) -> None:
        with self._lock:
            self._pauses -= 1
            if self._pauses or not self._was_on:
                return
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()


@functools.cache
def _collector() -> _Collector:
    return _Collector()

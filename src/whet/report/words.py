"""Words that several pages and tables share."""

from __future__ import annotations

NOISY = "The machine was noisy: trust the ratios, not the times."


def thread_count(threads: int) -> str:
    """Return a number of threads in words, such as ``1 thread``."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"

"""What engines that run requests together have in common, and the text of a request as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from whet.llm.engine.engine import Request, held_back
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.structured import Matcher


class Batching(Protocol):
    """What runs requests together; see ``Engine`` and ``Seq2SeqEngine``."""

    requests: dict[int, Request]

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""

    def add(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        ends: frozenset[int] = frozenset(),
        index: int = 0,
        priority: int = 0,
        matcher: Matcher | None = None,
    ) -> int:
        """Queue a request and return its number."""

    def cancel(self, number: int) -> None:
        """End a request."""

    def step(self) -> list[int]:
        """Run one step and return the requests that got a token or ended."""


def settled(request: Request, said: int) -> int:
    """Return how many characters of a request are final, ``said`` at least."""
    keep = 0 if request.reason else held_back(request.text, request.params.stop)
    return max(len(request.text) - keep, said)


def pieces(engine: Batching, number: int) -> Iterator[str]:
    """Run steps and yield the text of a request piece by piece; a caller that stops ends it.

    Raises:
        WhetError: what went wrong with the request.
    """
    request, said = engine.requests[number], 0
    try:
        while not request.reason:
            engine.step()
            ready = settled(request, said)
            if ready > said:
                yield request.text[said:ready]
            said = ready
        if request.fault is not None:
            raise request.fault
    finally:
        engine.cancel(number)
        del engine.requests[number]

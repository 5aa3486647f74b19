"""Requests from many places at once, answered as tokens come: the engine on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from whet.errors import ResourceError
from whet.llm.engine.batching import Batching, settled
from whet.llm.engine.engine import Reason
from whet.llm.engine.sampling import Choice, SamplingParams
from whet.llm.engine.structured import Matcher
from whet.words import counted


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of a completion.

    Attributes:
        tokens: new tokens.
        text: new text; a stop text, and what may become one, is held back.
        reason: why it ended, "" while it goes on.
        choices: the tokens with their log probabilities.
        cached: tokens of the prompt that the cache held.
    """

    tokens: tuple[int, ...]
    text: str
    reason: Reason
    choices: tuple[Choice, ...] = ()
    cached: int = 0


@dataclass(slots=True)
class _Stream:
    """Where one request's news go, and how much of it went there."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Delta | BaseException]
    tokens: int = 0
    text: int = 0

    def send(self, news: Delta | BaseException) -> None:
        """Hand news over to the event loop; one that is closed wants none."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.queue.put_nowait, news)


@dataclass(slots=True)
class _Inbox:
    """What callers want of the thread, and whether it is to stop."""

    tasks: deque[Callable[[], None]] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closed: bool = False


class AsyncEngine:
    """Streams completions. All work happens on one thread, so that steps never overlap.

    Args:
        engine: the engine; nothing else may use it meanwhile.
        most_requests: requests that may wait or run; more are refused.
    """

    def __init__(self, engine: Batching, most_requests: int = 256) -> None:
        self._engine = engine
        self._most = most_requests
        self._streams: dict[int, _Stream] = {}
        self._inbox = _Inbox()
        self._thread = threading.Thread(target=self._work, name="whet-llm", daemon=True)
        self._thread.start()

    async def generate(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        ends: frozenset[int] = frozenset(),
        index: int = 0,
        priority: int = 0,
        matcher: Matcher | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Yield a completion piece by piece; the request is cancelled if the caller stops reading.

        Raises:
            InputError: the prompt is empty or too long, or a grammar went too far.
            ModelError: logits are no numbers.
            ResourceError: too many requests wait, or the engine was closed.
        """
        stream = _Stream(asyncio.get_running_loop(), asyncio.Queue())
        arguments = {"ends": ends, "index": index, "priority": priority, "matcher": matcher}
        place: list[int] = []
        self._ask(lambda: self._add(stream, place, (prompt, params), arguments))
        try:
            while True:
                news = await stream.queue.get()
                if isinstance(news, BaseException):
                    raise news
                yield news
                if news.reason:
                    return
        finally:
            self._ask(lambda: self._drop(place))

    @property
    def requests(self) -> int:
        """Requests that wait or run."""
        return len(self._streams)

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        with self._inbox.changed:
            self._inbox.closed = True
            self._inbox.changed.notify()
        self._thread.join()

    # -- on the thread -------------------------------------------------------------------------

    def _ask(self, task: Callable[[], None]) -> None:
        with self._inbox.changed:
            if self._inbox.closed and not self._thread.is_alive():
                raise ResourceError("the engine was closed", hint="make a new one")
            self._inbox.tasks.append(task)
            self._inbox.changed.notify()

    def _work(self) -> None:
        while True:
            with self._inbox.changed:
                self._inbox.changed.wait_for(
                    lambda: self._inbox.tasks or self._inbox.closed or self._engine.busy
                )
                tasks = [*self._inbox.tasks]
                self._inbox.tasks.clear()
                closed = self._inbox.closed
            for task in tasks:
                task()
            if closed:
                self._fail(ResourceError("the engine was closed", hint="make a new one"))
                return
            self._step()

    def _step(self) -> None:
        """Run one step; should it fail, every request hears of it and the engine lives on."""
        try:
            for number in self._engine.step():
                self._tell(number)
        except Exception as error:  # noqa: BLE001 - the thread has to outlive any of them
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for number, stream in list(self._streams.items()):
            stream.send(error)
            self._engine.cancel(number)

    def _add(
        self, stream: _Stream, place: list[int], given: tuple[Any, Any], arguments: dict[str, Any]
    ) -> None:
        if len(self._streams) >= self._most:
            busy = f"waiting or running: {counted(self._most, 'request')}"
            stream.send(ResourceError(busy, hint="try again in a moment"))
            return
        try:
            number = self._engine.add(*given, **arguments)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller, not to the thread
            stream.send(error)
            return
        place.append(number)
        self._streams[number] = stream

    def _drop(self, place: list[int]) -> None:
        """Forget a request whose reader is gone."""
        for number in place:
            self._engine.cancel(number)
            self._engine.requests.pop(number, None)
            self._streams.pop(number, None)

    def _tell(self, number: int) -> None:
        request, stream = self._engine.requests[number], self._streams.get(number)
        if stream is None:
            return
        if request.fault is not None:
            stream.send(request.fault)
            return
        ready = settled(request, stream.text)
        text, tokens = request.text[stream.text : ready], request.output[stream.tokens :]
        stream.text, stream.tokens = ready, len(request.output)
        choices = tuple(request.choices[len(request.choices) - len(tokens) :]) if tokens else ()
        stream.send(Delta(tuple(tokens), text, request.reason, choices, request.cached))

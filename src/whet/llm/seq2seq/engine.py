"""The engine of encoder–decoders: sequences join and leave the ones that run, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from whet.errors import InputError
from whet.llm.architecture import Array
from whet.llm.engine.engine import Reason, Request, take_token
from whet.llm.engine.sampling import Sampler, SamplingParams
from whet.llm.engine.structured import Matcher
from whet.llm.seq2seq.coder import Source
from whet.llm.seq2seq.lines import HIDDEN, Lines
from whet.words import counted


class Codes(Protocol):
    """What encodes and decodes; see ``whet.llm.seq2seq.coder.Coder``."""

    def begin(self, lines: Lines, numbers: Sequence[int], sources: Sequence[Source]) -> None:
        """Encode sources, which join the lines."""

    def step(self, lines: Lines, tokens: Sequence[int]) -> Array:
        """Return the logits behind a token of every line."""


@dataclass(frozen=True, slots=True)
class Unsaid:
    """Tokens that a model is told never to say, and those that no target begins with."""

    always: tuple[int, ...] = ()
    first: tuple[int, ...] = ()

    def taken_off(self, logits: Array, *, begins: bool) -> Array:
        """Return logits in which those tokens are out of reach."""
        tokens = [*self.always, *(self.first if begins else ())]
        if not tokens:
            return logits
        found = logits.copy()
        found[[t for t in tokens if 0 <= t < found.size]] += HIDDEN
        return found


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A source that is not encoded yet; the urgent and the old come first."""

    priority: int
    number: int
    source: Source


class Seq2SeqEngine:
    """Runs targets together; every target's tokens are those that it would get alone.

    Args:
        coder: runs the model.
        context: tokens that a target may have.
        most: sequences that run at once.
        decode: text of tokens, needed where targets stop at texts.
        unsaid: tokens that are never chosen.
    """

    def __init__(
        self,
        coder: Codes,
        context: int,
        most: int = 8,
        decode: Callable[[Sequence[int]], str] | None = None,
        unsaid: Unsaid | None = None,
    ) -> None:
        self._coder = coder
        self._context = context
        self._most = most
        self._decode = decode
        self._unsaid = unsaid or Unsaid()
        self._lines = Lines()
        self._waiting: list[_Waiting] = []
        self._next = 0
        self.requests: dict[int, Request] = {}
        self.steps = 0

    @property
    def running(self) -> int:
        """Targets that run."""
        return len(self._lines.numbers)

    @property
    def waiting(self) -> int:
        """Sources that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._lines.numbers)

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
        """Queue a source and return its number; see ``Engine.add``.

        Raises:
            InputError: what the target begins with leaves no room.
        """
        if len(prompt.begin) >= self._context:
            raise InputError(
                f"no room is left behind {counted(len(prompt.begin), 'token')} to begin with",
                hint="give fewer",
            )
        number, self._next = self._next, self._next + 1
        stops = frozenset(params.stop_tokens) | (frozenset() if params.ignore_eos else ends)
        sampler = Sampler(params, index, matcher)
        self.requests[number] = Request(prompt.begin, params, stops, sampler)
        self._waiting.append(_Waiting(priority, number, prompt))
        return number

    def cancel(self, number: int) -> None:
        """End a request; what it has so far stays."""
        if number in self.requests and not self.requests[number].reason:
            self.requests[number].reason = "cancelled"
            self._waiting = [w for w in self._waiting if w.number != number]
            self._lines.leave(frozenset([number]))

    def step(self) -> list[int]:
        """Run one step and return the requests that got a token or ended, if any did."""
        self._admit()
        if not self._lines.numbers:
            return []
        tokens = [
            self._said(number)[length]
            for number, length in zip(self._lines.numbers, self._lines.lengths, strict=True)
        ]
        logits = self._coder.step(self._lines, tokens)
        self.steps += 1
        chosen: list[int] = []
        for number, length, row in zip(
            list(self._lines.numbers), self._lines.lengths, logits, strict=True
        ):
            if length == len(self._said(number)):
                self.requests[number].reason = self._chosen(self.requests[number], row)
                chosen.append(number)
        self._lines.leave(frozenset(n for n in chosen if self.requests[n].reason))
        return chosen

    def _admit(self) -> None:
        """Encode, together, as many of those that wait as there is room for."""
        room = self._most - len(self._lines.numbers)
        if not room or not self._waiting:
            return
        self._waiting.sort(key=lambda w: (w.priority, w.number))
        first, self._waiting = self._waiting[:room], self._waiting[room:]
        self._coder.begin(self._lines, [w.number for w in first], [w.source for w in first])

    def _said(self, number: int) -> list[int]:
        request = self.requests[number]
        return [*request.prompt, *request.output]

    def _chosen(self, request: Request, logits: Array) -> Reason:
        allowed = self._unsaid.taken_off(logits, begins=not request.output)
        reason = take_token(request, allowed, self._decode)
        most = min(request.params.max_tokens, self._context - len(request.prompt))
        return "length" if not reason and len(request.output) >= most else reason

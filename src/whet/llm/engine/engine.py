"""The engine: requests in, tokens out, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, Protocol

import numpy as np

from whet.errors import InputError, ModelError, ResourceError, WhetError, nearest
from whet.llm.architecture import Array
from whet.llm.engine.program import Span
from whet.llm.engine.sampling import Choice, Sampler, SamplingParams
from whet.llm.engine.scheduler import Scheduler, Share
from whet.llm.engine.speculate import Speculation, Wanted
from whet.llm.engine.structured import Matcher
from whet.llm.engine.transcript import Transcript
from whet.llm.images.image_prompt import Pictured
from whet.words import counted

Reason = Literal["", "stop", "length", "cancelled", "error"]


class Runs(Protocol):
    """What runs a step; see ``whet.llm.engine.program.StepProgram``."""

    def run(self, spans: Sequence[Span]) -> Array:
        """Return the logits asked for, sequence by sequence."""


@dataclass(slots=True)
class Request:
    """A completion in the making.

    Attributes:
        prompt: tokens of the prompt.
        params: how it is sampled.
        ends: tokens that end it.
        sampler: chooses its tokens.
        output: what was chosen so far.
        choices: the same with log probabilities.
        text: what the output says so far.
        reason: why it ended, "" while it goes on.
        cached: tokens of the prompt that the cache held.
        fault: what went wrong, if it ended with "error".
        transcript: makes the text, token by token.
    """

    prompt: Sequence[int]
    params: SamplingParams
    ends: frozenset[int]
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    text: str = ""
    reason: Reason = ""
    cached: int = 0
    fault: WhetError | None = None
    transcript: Transcript = field(default_factory=Transcript)

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the tokens, where it was asked for; else 0."""
        known = [c.logprobs[c.token] for c in self.choices if c.logprobs]
        return sum(known) / len(known) if known else 0.0


class Engine:
    """Runs requests together; every request's tokens are those that it would get alone.

    Args:
        program: what runs a step.
        scheduler: what plans it.
        decode: text of tokens, needed where requests stop at texts.
        adapters: names of those that the program was written with.
    """

    def __init__(
        self,
        program: Runs,
        scheduler: Scheduler,
        decode: Callable[[Sequence[int]], str] | None = None,
        adapters: Collection[str] = (),
    ) -> None:
        self._program = program
        self._adapters = adapters
        self._speculation: Speculation | None = None
        self._scheduler = scheduler
        self._decode = decode
        self.requests: dict[int, Request] = {}
        self.steps = 0

    @property
    def scheduler(self) -> Scheduler:
        """What plans the steps."""
        return self._scheduler

    @property
    def speculation(self) -> Speculation | None:
        """What guesses tokens, if anything does."""
        return self._speculation

    def speculate(self, speculation: Speculation | None) -> None:
        """Guess from now on, or no more.

        Raises:
            ResourceError: requests wait or run.
        """
        if self.busy:
            raise ResourceError("requests wait or run", hint="wait for them")
        self._speculation = speculation

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._scheduler.waiting or self._scheduler.running)

    def add(
        self,
        prompt: Sequence[int] | Pictured,
        params: SamplingParams,
        *,
        ends: frozenset[int] = frozenset(),
        index: int = 0,
        priority: int = 0,
        matcher: Matcher | None = None,
    ) -> int:
        """Queue a request and return its number.

        Args:
            prompt: tokens, perhaps with features of images.
            params: how it is sampled.
            ends: tokens that end it.
            index: which of several completions of one prompt it is.
            priority: smaller is more urgent.
            matcher: says which tokens may come, its own; ``None`` for all.

        Raises:
            InputError: the prompt is empty or too long, or there is no such adapter.
            ResourceError: the cache could never hold it.
        """
        if params.adapter and params.adapter not in self._adapters:
            hint = nearest(params.adapter, self._adapters) if self._adapters else "there is none"
            raise InputError(f"there is no adapter {params.adapter!r}", hint=hint)
        images = prompt.images if isinstance(prompt, Pictured) else None
        tokens = prompt.tokens if isinstance(prompt, Pictured) else prompt
        root = params.adapter.encode()
        number = self._scheduler.add(tokens, params.max_tokens, priority, images, root)
        stops = frozenset(params.stop_tokens) | (frozenset() if params.ignore_eos else ends)
        sampler = Sampler(params, index, matcher)
        self.requests[number] = Request(tuple(tokens), params, stops, sampler)
        return number

    def cancel(self, number: int) -> None:
        """End a request; what it has so far stays."""
        if number in self.requests and not self.requests[number].reason:
            self._end(number, "cancelled")

    def step(self) -> list[int]:
        """Run one step and return the requests that got a token or ended, if any did."""
        self._guess()
        shares = self._scheduler.plan()
        assert shares or not self.busy, "what waits can always run some time"
        if not shares:
            return []
        spans = [self._span(share) for share in shares]
        guesses = [span.tokens[share.count :] for share, span in zip(shares, spans, strict=True)]
        logits = self._program.run(spans)
        self._scheduler.done(shares)
        self.steps += 1
        chosen: list[int] = []
        first = 0
        for share, guess in zip(shares, guesses, strict=True):
            if share.last:
                rows = logits[first : first + 1 + len(guess)]
                self._advance(share.number, rows, guess)
                first += len(rows)
                chosen.append(share.number)
        assert first == len(logits), "a step gives the logits that it was asked for"
        return chosen

    def _guess(self) -> None:
        """Let the sequences that wait for one token only guess those after it."""
        if self._speculation is None:
            return
        decoding = {
            number: Wanted(track.tokens, track.limit - len(track.tokens) - 1)
            for number, track in self._scheduler.running.items()
            if len(track.tokens) - track.computed == 1
        }
        for number, guess in self._speculation.guess(decoding).items():
            self._scheduler.find(number).guess = list(takewhile(_is_text, guess))

    def _span(self, share: Share) -> Span:
        track = self._scheduler.find(share.number)
        tokens = track.tokens[share.start : share.start + share.count]
        guess = track.guess[: share.guessed]
        adapter = self.requests[share.number].params.adapter
        logits = int(share.last) + len(guess)
        return Span([*tokens, *guess], share.start, track.pages, logits, track.images, adapter)

    def _advance(self, number: int, rows: Array, guess: Sequence[int]) -> None:
        """Choose a request's next token, and more as long as they were guessed."""
        request = self.requests[number]
        if not request.output:
            request.cached = self._scheduler.find(number).cached
        right = 0
        for k, logits in enumerate(rows):
            self._choose(number, logits)
            if k == len(guess) or not request.output or request.output[-1] != guess[k]:
                break
            right += 1
            if request.reason:
                break
        if self._speculation is not None and guess:
            self._speculation.learn(number, len(guess), right)
        if right and not request.reason:
            self._scheduler.accept(number, right)

    def _choose(self, number: int, logits: Array) -> None:
        """Choose one token, and end the request if that was the last one."""
        request, track = self.requests[number], self._scheduler.find(number)
        before = len(request.output)
        reason = take_token(request, logits, self._decode)
        track.tokens += request.output[before:]
        if not reason and len(track.tokens) >= track.limit:
            reason = "length"
        if reason:
            self._end(number, reason)

    def _end(self, number: int, reason: Reason) -> None:
        self.requests[number].reason = reason
        self._scheduler.finish(number)
        if self._speculation is not None:
            self._speculation.forget(number)


def take_token(
    request: Request, logits: Array, decode: Callable[[Sequence[int]], str] | None
) -> Reason:
    """Choose a request's next token, and return why it ends there, "" if it goes on."""
    if not np.isfinite(logits).all():
        request.fault = ModelError(
            "the logits behind "
            f"{counted(len(request.prompt) + len(request.output), 'token')} are no numbers",
            hint="the checkpoint holds NaN or infinity, or numbers too large for its types",
        )
        return "error"
    try:
        choice = request.sampler.choose(logits, request.prompt, request.output)
    except InputError as error:  # a grammar that costs too much ends its own request only
        request.fault = error
        return "error"
    request.output.append(choice.token)
    request.choices.append(choice)
    if choice.token in request.ends:
        return "stop"
    if decode is not None:
        request.text = request.transcript.text(request.output, decode)
    place = _stop_place(request)
    if place is not None:
        request.text = request.text[:place]
        return "stop"
    return "stop" if request.sampler.complete else ""


def _is_text(token: int) -> bool:
    """Tell a token of the vocabulary from a feature of an image, which no model says."""
    return token >= 0


def _stop_place(request: Request) -> int | None:
    """Return where the earliest stop text begins, if any is there."""
    places = [p for p in (request.text.find(s) for s in request.params.stop) if p >= 0]
    return min(places) if places else None


def held_back(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end could still change or become a stop text."""
    partial = max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )
    unfinished = len(text) - len(text.rstrip("\ufffd"))  # a character of which bytes are missing
    return max(partial, unfinished)

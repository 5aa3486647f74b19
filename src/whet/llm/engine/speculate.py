"""Guesses of the next tokens, which one step then checks all at once.

A guess is a list of tokens that follow. The step gives logits behind every guessed token; the
sampler chooses from them in order, as if there were no guesses, and goes on as long as it chose
what was guessed. So a guess is accepted with the probability that the model gives it, and the token
behind the last accepted one is drawn from what the model gives there: exactly rejection sampling
against a draft that is sure of itself. With greedy or seeded sampling the tokens are those of an
engine without guesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from whet.errors import OptionError
from whet.kernel.paged import PAGE
from whet.llm.architecture import Array
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import Span


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sequence that could use a guess: its tokens, and how many more would help."""

    tokens: Sequence[int]
    most: int


class Drafter(Protocol):
    """Guesses what follows; see ``PromptLookup`` and ``DraftModel``."""

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return guesses by request; none where there is nothing to go on."""

    def forget(self, number: int) -> None:
        """Drop what is kept of a request."""


@dataclass(slots=True)
class _Seen:
    """Where every run of tokens of one sequence was seen last, and how far it was read."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    read: int = 0


class PromptLookup:
    """Guesses that what followed the last few tokens the last time follows again.

    Args:
        longest: tokens that have to agree, at first; fewer if those were never seen.
        shortest: the fewest.
    """

    def __init__(self, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise OptionError(
                f"shortest is {shortest}, longest {longest}", hint="give 1 or more, in order"
            )
        self._sizes = range(longest, shortest - 1, -1)
        self._seen: dict[int, _Seen] = {}

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return what followed the longest run that was seen before."""
        found = {number: self._one(number, w) for number, w in wanted.items()}
        return {number: tokens for number, tokens in found.items() if tokens}

    def forget(self, number: int) -> None:
        """Drop what is kept of a request."""
        self._seen.pop(number, None)

    def _one(self, number: int, wanted: Wanted) -> list[int]:
        seen, tokens = self._seen.setdefault(number, _Seen()), wanted.tokens
        for end in range(max(seen.read, 1), len(tokens)):  # the run at the very end is the question
            for size in self._sizes:
                if size <= end:
                    seen.ends[tuple(tokens[end - size : end])] = end
        seen.read = len(tokens)
        for size in self._sizes:
            before = seen.ends.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if before is not None:
                return list(tokens[before : before + wanted.most])
        return []


class Steps(Protocol):
    """What runs the small model's steps; see ``whet.llm.engine.program.StepProgram``."""

    def run(self, spans: Sequence[Span]) -> Array:
        """Return the logits asked for."""


@dataclass(slots=True)
class _Kept:
    """What of a sequence the small model's cache holds."""

    pages: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class DraftModel:
    """Guesses what a smaller model of the same vocabulary finds likeliest.

    Args:
        program: the small model's step.
        pages: pages of its cache; sequences that find none free go without guesses.
        context: positions that it was compiled for.
        step_tokens: tokens of one of its steps.
    """

    def __init__(self, program: Steps, pages: int, context: int, *, step_tokens: int = 512) -> None:
        self._program = program
        self._pool = PagePool(pages)
        self._context = context
        self._step_tokens = step_tokens
        self._kept: dict[int, _Kept] = {}

    @property
    def free(self) -> int:
        """Pages of the small model's cache that hold nothing."""
        return self._pool.free

    def forget(self, number: int) -> None:
        """Free the pages of a request."""
        kept = self._kept.pop(number, None)
        if kept is not None:
            self._pool.give_back(kept.pages)

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return the likeliest tokens, a step of the small model for each, all together."""
        rooms = {n: w for n, w in wanted.items() if self._make_room(n, w)}
        found: dict[int, list[int]] = {n: [] for n in rooms}
        for k in range(max((w.most for w in rooms.values()), default=0)):
            asking = [n for n, w in rooms.items() if w.most > k]
            behind = {n: [*rooms[n].tokens, *found[n]] for n in asking}
            for number, token in self._next(behind).items():
                found[number].append(token)
        return found

    def _make_room(self, number: int, wanted: Wanted) -> bool:
        """Keep what still agrees, and take the pages that all guesses need."""
        length = len(wanted.tokens) + wanted.most
        kept = self._kept.setdefault(number, _Kept())
        agree = _agreeing(kept.tokens, wanted.tokens)
        del kept.tokens[min(agree, len(wanted.tokens) - 1) :]
        missing = -(-length // PAGE) - len(kept.pages)
        if length > self._context or missing > self._pool.free:
            return False
        kept.pages += [p for p in (self._pool.take() for _ in range(missing)) if p is not None]
        return True

    def _next(self, sequences: Mapping[int, list[int]]) -> dict[int, int]:
        """Run what the cache lacks of some sequences; return the likeliest token behind each."""
        found: dict[int, int] = {}
        while len(found) < len(sequences):
            budget, spans, ending = self._step_tokens, [], []
            for number in (n for n in sequences if n not in found):
                kept, tokens = self._kept[number], sequences[number]
                part = tokens[len(kept.tokens) :][:budget]
                if not part:
                    break
                budget -= len(part)
                last = len(kept.tokens) + len(part) == len(tokens)
                spans.append(Span(part, len(kept.tokens), kept.pages, int(last)))
                kept.tokens += part
                ending += [number] if last else []
            logits = self._program.run(spans)
            found |= {n: int(np.argmax(row)) for n, row in zip(ending, logits, strict=True)}
        return found


def _agreeing(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens at the start are the same."""
    if list(right[: len(left)]) == list(left):
        return len(left)
    return next(k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)


LONGEST_PAUSE = 8
"""Steps without a guess where none was right for long."""


@dataclass(slots=True)
class _Length:
    """How many tokens to guess for a request; more while guesses are right.

    Attributes:
        tokens: of the next guess.
        misses: guesses in a row of which no token was right.
        pause: steps to let go by before the next guess.
    """

    tokens: int = 4
    misses: int = 0
    pause: int = 0


class Speculation:
    """Decides how much is guessed, request by request.

    Args:
        drafter: what guesses.
        most: most tokens guessed at once.
    """

    def __init__(self, drafter: Drafter, most: int = 8) -> None:
        if most < 1:
            raise OptionError(f"most is {most}", hint="give 1 or more")
        self._drafter = drafter
        self._most = most
        self._lengths: dict[int, _Length] = {}
        self.guessed = 0
        self.accepted = 0

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return guesses by request, none longer than it helps."""
        asked: dict[int, Wanted] = {}
        for number, w in wanted.items():
            length = self._lengths.setdefault(number, _Length(min(4, self._most)))
            if length.pause:
                length.pause -= 1
            elif w.most > 0:
                asked[number] = Wanted(w.tokens, min(w.most, length.tokens))
        return self._drafter.guess(asked)

    def learn(self, number: int, guessed: int, accepted: int) -> None:
        """Note how good a guess was: a right one doubles the next, a wrong one shortens it.

        A guess costs time, right or wrong: where several in a row are of no use, some steps do
        without.
        """
        self.guessed += guessed
        self.accepted += accepted
        right = guessed == accepted
        if number in self._lengths:  # else it ended with this guess
            length = min(2 * guessed, self._most) if right else accepted + 1
            misses = 0 if accepted else self._lengths[number].misses + 1
            pause = min(1 << (misses - 1), LONGEST_PAUSE) if misses > 2 else 0
            self._lengths[number] = _Length(max(length, 1), misses, pause)

    def forget(self, number: int) -> None:
        """Drop what is kept of a request."""
        self._lengths.pop(number, None)
        self._drafter.forget(number)

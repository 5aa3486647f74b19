"""Beam search: the likeliest whole completions, not the likeliest next token each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from whet.errors import OptionError
from whet.llm.engine.sampling import MAX_LOGPROBS, SamplingParams

if TYPE_CHECKING:
    from whet.llm.llm import LLM

MOST_BEAMS = MAX_LOGPROBS // 2


@dataclass(frozen=True, slots=True)
class Beam:
    """A completion in the making.

    Attributes:
        tokens: the new tokens, the one that ended it included.
        logprob: sum of their log probabilities.
        ended: whether a token of the model ended it.
        text: the new text; "" where the checkpoint has no tokenizer.
    """

    tokens: tuple[int, ...]
    logprob: float
    ended: bool
    text: str = ""

    def score(self, length_penalty: float) -> float:
        """Return the log probability divided by a power of the length."""
        return self.logprob / math.pow(max(len(self.tokens), 1), length_penalty)

    def read(self, decode: Callable[[Sequence[int]], str]) -> Beam:
        """Return the beam with its text."""
        return replace(self, text=decode(self.tokens))


def beam_search(
    llm: LLM,
    prompt: str | Sequence[int],
    *,
    width: int = 4,
    max_tokens: int = 64,
    length_penalty: float = 1.0,
) -> list[Beam]:
    """Return the ``width`` best completions of a prompt, the best first.

    All beams run together; each step starts from the pages of the cache that hold what is behind.
    A search ends when it has ``width`` completions that ended, or all tokens.

    Raises:
        OptionError: ``width`` or ``max_tokens`` means nothing.
        InputError: the prompt is empty, too long, or has unknown tokens.
    """
    search = BeamSearch(width, llm.tokenizer.ends if llm.tokenizer else frozenset())
    tokens = llm.encode(prompt)
    for _ in range(min(max_tokens, llm.context - len(tokens))):
        found = llm.generate([[*tokens, *beam.tokens] for beam in search.live], search.params)
        search.grow([c.logprobs[0] if c.logprobs else {} for c in found])
        if search.over:
            break
    best = search.best(length_penalty)
    return best if llm.tokenizer is None else [b.read(llm.tokenizer.decode) for b in best]


class BeamSearch:
    """A search in the making: whoever runs the model gives it the likeliest tokens of each step.

    Args:
        width: beams that are followed.
        ends: tokens that end a completion.

    Raises:
        OptionError: ``width`` means nothing.
    """

    def __init__(self, width: int, ends: frozenset[int]) -> None:
        if not 1 <= width <= MOST_BEAMS:
            raise OptionError(f"width is {width}", hint=f"give 1 to {MOST_BEAMS}")
        self._width, self._ends = width, ends
        self.live, self._ended = [Beam((), 0.0, ended=False)], list[Beam]()
        self.params = SamplingParams(max_tokens=1, logprobs=2 * width)

    @property
    def over(self) -> bool:
        """Whether as many beams ended as are wanted, or none is left."""
        return len(self._ended) >= self._width or not self.live

    def grow(self, lines: Sequence[Mapping[int, float]]) -> None:
        """Take the likeliest tokens behind each live beam, and their log probabilities."""
        self.live, done = grown_beams(self.live, lines, self._ends, self._width)
        self._ended += done

    def best(self, length_penalty: float) -> list[Beam]:
        """Return the best beams, those that did not end among them, the best first."""
        return sorted([*self._ended, *self.live], key=lambda b: -b.score(length_penalty))[
            : self._width
        ]


def grown_beams(
    live: Sequence[Beam], lines: Sequence[Mapping[int, float]], ends: frozenset[int], width: int
) -> tuple[list[Beam], list[Beam]]:
    """Return the likeliest beams one token longer, and which of the first ``width`` ended."""
    grown = [
        Beam((*beam.tokens, token), beam.logprob + logprob, token in ends)
        for beam, line in zip(live, lines, strict=True)
        for token, logprob in line.items()
    ]
    grown.sort(key=lambda b: (-b.logprob, b.tokens))
    done = [b for b in grown[:width] if b.ended]
    return [b for b in grown if not b.ended][:width], done

"""Beam search: the likeliest whole completions, not the likeliest next token each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.errors import OptionError
from whet.llm.sampling import MAX_LOGPROBS, SamplingParams

if TYPE_CHECKING:
    from whet.llm.llm import LLM


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
    if not 1 <= width <= MAX_LOGPROBS // 2:
        raise OptionError(f"width is {width}", hint=f"give 1 to {MAX_LOGPROBS // 2}")
    tokens = llm.encode(prompt)
    params = SamplingParams(max_tokens=1, logprobs=2 * width)
    ends = llm.tokenizer.ends if llm.tokenizer else frozenset[int]()
    live, ended = [Beam((), 0.0, ended=False)], list[Beam]()
    for _ in range(min(max_tokens, llm.context - len(tokens))):
        found = llm.generate([[*tokens, *beam.tokens] for beam in live], params)
        lines = [c.logprobs[0] if c.logprobs else {} for c in found]
        live, done = grown_beams(live, lines, ends, width)
        ended += done
        if len(ended) >= width or not live:
            break
    best = sorted([*ended, *live], key=lambda b: -b.score(length_penalty))[:width]
    if llm.tokenizer is None:
        return best
    return [Beam(b.tokens, b.logprob, b.ended, llm.tokenizer.decode(b.tokens)) for b in best]


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

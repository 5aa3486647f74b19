"""Whet beside another engine on one file: steps take turns, so that both see the same machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from whet.kernel.paged import PAGE
from whet.llm.engine.engine import Runs
from whet.llm.engine.program import Span

PAUSE = 0.02
"""Seconds between turns, in which the other's threads stop spinning."""


@dataclass(frozen=True, slots=True)
class Duel:
    """One kind of step, measured in turns.

    Attributes:
        what: ``prefill`` or ``decode``.
        batch: sequences.
        tokens: tokens of a step, of all sequences together.
        context: positions of each sequence in front of the first step.
        rounds: turns of each.
        ours: Whet's best rate, tokens a second.
        theirs: the other's.
        ratio: median over the rounds of the other's time over Whet's.
    """

    what: str
    batch: int
    tokens: int
    context: int
    rounds: int
    ours: float
    theirs: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """Return the facts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Turns:
    """Two engines that take turns.

    Attributes:
        ours: Whet.
        theirs: the other engine.
        vocabulary: tokens are drawn below it.
    """

    ours: Runs
    theirs: Runs
    vocabulary: int

    def prefill(self, tokens: int, rounds: int, seed: int = 0) -> Duel:
        """Measure prompts of so many tokens, each from an empty cache, after one to warm up."""
        rng, times = np.random.default_rng([seed, tokens]), []
        for number in range(rounds + 1):
            prompt = rng.integers(0, self.vocabulary, tokens).tolist()
            spans = [Span(prompt, 0, _pages(0, tokens), 1)]
            _clear(self.theirs)
            times.append(self._pair(spans, number))
        return _duel("prefill", (1, tokens, 0), times[1:])

    def decode(self, batch: int, start: int, rounds: int, seed: int = 0) -> Duel:
        """Measure steps of one more token for each sequence behind random prompts."""
        rng = np.random.default_rng([seed, batch, start])
        room, times = start + rounds + 1, []
        _clear(self.theirs)
        for sequence in range(batch):
            prompt = rng.integers(0, self.vocabulary, start).tolist()
            empty = [Span([], 0, [], 0)] * sequence
            spans = [Span(prompt, 0, _pages(sequence, room), 1)]
            self.ours.run(spans)
            self.theirs.run([*empty, *spans])
        for number in range(rounds + 1):
            drawn = rng.integers(0, self.vocabulary, batch).tolist()
            spans = [
                Span([token], start + number, _pages(k, room), 1) for k, token in enumerate(drawn)
            ]
            times.append(self._pair(spans, number))
        return _duel("decode", (batch, batch, start), times[1:])

    def _pair(self, spans: Sequence[Span], number: int) -> tuple[float, float]:
        """Run a step in both engines, in turn the one and the other first; return seconds."""
        seconds = [0.0, 0.0]
        for which in (number % 2, 1 - number % 2):
            time.sleep(PAUSE)
            before = time.perf_counter()
            (self.ours, self.theirs)[which].run(spans)
            seconds[which] = time.perf_counter() - before
        return seconds[0], seconds[1]


def streamed_bytes(path: Path) -> int:
    """Return the bytes of weights that a step of a GGUF file's model reads."""
    from gguf import GGUFReader

    sizes = {str(t.name): int(t.n_bytes) for t in GGUFReader(path).tensors}
    if "output.weight" in sizes:
        sizes.pop("token_embd.weight", None)
    return sum(sizes.values())


def _pages(sequence: int, room: int) -> list[int]:
    """Return the pages of a sequence, those of the others beside them."""
    count = -(-room // PAGE)
    return list(range(sequence * count, (sequence + 1) * count))


def _clear(engine: Runs) -> None:
    clear = getattr(engine, "clear", None)
    if clear is not None:
        clear()


def _duel(what: str, size: tuple[int, int, int], times: list[tuple[float, float]]) -> Duel:
    """Return what times of both say of a step: its size is batch, tokens and context."""
    batch, tokens, context = size
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    ratio = median(theirs / ours for ours, theirs in times)
    return Duel(what, batch, tokens, context, len(times), tokens / ours, tokens / theirs, ratio)

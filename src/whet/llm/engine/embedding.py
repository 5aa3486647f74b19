"""Vectors of texts from a decoder: the state behind the last token, or the mean of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.errors import UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.pooling import Pooled, unit
from whet.llm.engine.pages import ROOT, PagePool
from whet.llm.engine.program import Span, StepProgram
from whet.llm.engine.scheduler import Limits, Scheduler, Share

LAST = Pooled("last", normalised=True)
"""What decoders do whose checkpoints say nothing: the state behind the last token."""


class States:
    """Runs texts together and in chunks, as the engine runs prompts, and pools their states.

    Args:
        program: a decoder's step that gives states, not logits.
        pages: pages of its cache.
        limits: how much a step may take.
        pooled: the last token's state, with shared beginnings, or the mean of all.
    """

    def __init__(
        self,
        program: StepProgram,
        pages: int,
        limits: Limits,
        pooled: Pooled = LAST,
    ) -> None:
        if pooled.how not in ("last", "mean"):
            raise UnsupportedError(
                f"a decoder's states pooled by {pooled.how!r}", hint="last and mean are known"
            )
        self._program = program
        self._pooled = pooled
        pool = PagePool(pages) if pooled.how == "last" else _Apart(pages)
        self._scheduler = Scheduler(pool, limits)

    def embed(self, texts: Sequence[Sequence[int]]) -> Array:
        """Return a vector for each text.

        Raises:
            InputError: a text is empty or too long.
            ResourceError: the cache could never hold it.
        """
        scheduler = self._scheduler
        numbers: list[int] = []
        sums: dict[int, Array] = {}
        left = set[int]()
        try:
            for text in texts:
                numbers.append(scheduler.add(text, 0))
            left |= set(numbers)
            while left:
                shares = scheduler.plan()
                for share, states in zip(shares, self._states(shares), strict=True):
                    if share.start and share.number in sums:
                        states = np.concatenate([sums[share.number][None], states])
                    sums[share.number] = states.sum(0)  # row by row: steps change no bit of it
                scheduler.done(shares)
                ended = [share.number for share in shares if share.last]
                left -= set(ended)
                for number in ended:
                    scheduler.finish(number)
        finally:
            for number in numbers:
                scheduler.finish(number)
        return self._vectors([sums[number] for number in numbers], [len(t) for t in texts])

    def _states(self, shares: Sequence[Share]) -> list[Array]:
        """Return the states that are wanted of each sequence's part of a step."""
        spans = []
        for share in shares:
            track = self._scheduler.find(share.number)
            tokens = track.tokens[share.start : share.start + share.count]
            wanted = share.count if self._pooled.how == "mean" else int(share.last)
            spans.append(Span(tokens, share.start, track.pages, wanted))
        states = self._program.run(spans)
        return np.split(states, np.cumsum([span.logits for span in spans])[:-1])

    def _vectors(self, sums: Sequence[Array], counts: Sequence[int]) -> Array:
        if not sums:
            return np.zeros((0, 0), np.float32)
        found = np.stack(sums)
        if self._pooled.how == "mean":
            found /= np.array(counts, np.float32)[:, None]
        return unit(found) if self._pooled.normalised else found


class _Apart(PagePool):
    """Pages that are not shared: a mean needs the states of all tokens, those of beginnings too."""

    def find(self, tokens: Sequence[int], root: bytes = ROOT) -> list[int]:
        """Return no pages."""
        return []

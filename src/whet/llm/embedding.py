"""Vectors of texts from a decoder: the state behind the last token, as Qwen 3 Embedding does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.llm.architecture import Array
from whet.llm.pages import PagePool
from whet.llm.program import Span, StepProgram
from whet.llm.scheduler import Limits, Scheduler


class LastStates:
    """Runs texts together, in chunks and with shared beginnings, as the engine runs prompts.

    Args:
        program: a decoder's step that gives states, not logits.
        pages: pages of its cache.
        limits: how much a step may take.
    """

    def __init__(self, program: StepProgram, pages: int, limits: Limits) -> None:
        self._program = program
        self._scheduler = Scheduler(PagePool(pages), limits)

    def embed(self, texts: Sequence[Sequence[int]]) -> Array:
        """Return the state behind each text's last token, scaled to length 1.

        Raises:
            InputError: a text is empty or too long.
            ResourceError: the cache could never hold it.
        """
        scheduler = self._scheduler
        numbers: list[int] = []
        rows: dict[int, Array] = {}
        try:
            for text in texts:
                numbers.append(scheduler.add(text, 0))
            while len(rows) < len(numbers):
                shares = scheduler.plan()
                tracks = [scheduler.find(share.number) for share in shares]
                spans = [
                    Span(t.tokens[s.start : s.start + s.count], s.start, t.pages, int(s.last))
                    for s, t in zip(shares, tracks, strict=True)
                ]
                states = self._program.run(spans)
                scheduler.done(shares)
                ended = [share.number for share in shares if share.last]
                rows |= zip(ended, states, strict=True)
                for number in ended:
                    scheduler.finish(number)
        finally:
            for number in numbers:
                scheduler.finish(number)
        if not numbers:
            return np.zeros((0, 0), np.float32)
        found = np.stack([rows[number] for number in numbers])
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))

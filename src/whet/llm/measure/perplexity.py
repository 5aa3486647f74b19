"""Perplexity: how surprised a model is by a text, ``exp`` of the mean negative log likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.errors import InputError
from whet.kernel.paged import PAGE
from whet.llm.engine.engine import Runs
from whet.llm.engine.program import Span


def perplexity(program: Runs, tokens: Sequence[int], window: int) -> float:
    """Return the perplexity of tokens, cut into windows that know nothing of each other.

    Args:
        program: what runs a step.
        tokens: the text.
        window: tokens of a window; the cache has to have room for them.

    Raises:
        InputError: there are fewer than two tokens.
    """
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, window):
        piece = list(tokens[start : start + window])
        if len(piece) < 2:
            continue
        pages = list(range(-(-len(piece) // PAGE)))
        logits = program.run([Span(piece, 0, pages, len(piece))]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=1))
        following = np.array(piece[1:])
        total += float((norm[:-1] - logits[np.arange(len(following)), following]).sum())
        count += len(following)
    if not count:
        raise InputError("perplexity needs two tokens at least", hint="give a longer text")
    return float(np.exp(total / count))

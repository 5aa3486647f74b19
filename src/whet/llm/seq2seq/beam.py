"""Beam search of encoder–decoders: the likeliest whole targets of a source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whet.errors import ModelError, OptionError
from whet.llm.architecture import Array
from whet.llm.beam import Beam, grown_beams
from whet.llm.seq2seq.coder import Source
from whet.llm.seq2seq.engine import Codes, Unsaid
from whet.llm.seq2seq.lines import Lines

MOST_BEAMS = 64


def beam_targets(
    coder: Codes,
    source: Source,
    ends: frozenset[int],
    unsaid: Unsaid,
    *,
    width: int,
    most: int,
) -> list[Beam]:
    """Return beams that ended and those that did not, ``width`` of each at most, in no order.

    All beams are lines of one step; where several go on from one, its keys and values are copied.

    Args:
        coder: runs the model.
        source: what targets are made of.
        ends: tokens that end a target.
        unsaid: tokens that are never chosen.
        width: beams that are followed.
        most: tokens of a target.

    Raises:
        OptionError: ``width`` means nothing.
        ModelError: logits are no numbers.
    """
    if not 1 <= width <= MOST_BEAMS:
        raise OptionError(f"width is {width}", hint=f"give 1 to {MOST_BEAMS}")
    lines = Lines()
    coder.begin(lines, [0], [source])
    for token in source.begin[:-1]:
        coder.step(lines, [token])
    live, ended = [Beam((), 0.0, ended=False)], list[Beam]()
    for _ in range(most):
        tokens = [(*source.begin, *beam.tokens)[-1] for beam in live]
        found = [
            unsaid.taken_off(row, begins=not live[0].tokens) for row in coder.step(lines, tokens)
        ]
        places = {beam.tokens: k for k, beam in enumerate(live)}
        live, done = grown_beams(live, [_likeliest(row, 2 * width) for row in found], ends, width)
        ended += done
        if len(ended) >= width or not live:
            break
        lines.take([places[beam.tokens[:-1]] for beam in live])
    return [*ended, *live]


def _likeliest(logits: Array, count: int) -> Mapping[int, float]:
    """Return the log probabilities of the likeliest tokens."""
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ModelError("logits are no numbers", hint="the checkpoint holds NaN or infinity")
    top = wide.max()
    total = top + np.log(np.exp(wide - top).sum())
    best = np.argsort(-wide, kind="stable")[:count]
    return {int(t): float(wide[t] - total) for t in best}

"""What attention over pages means, in NumPy."""

from __future__ import annotations

import numpy as np

from whet.kernel.paged import PAGE, Weighing
from whet.kernel.semantics import Array


def paged_attention(
    q: Array, pools: tuple[Array, Array], tiles: Array, tables: Array, weighing: Weighing, cols: int
) -> Array:
    """Return the attention of every token in a tile; other tokens give 0.

    Args:
        q: queries [token, head, depth].
        pools: keys [page, head, depth, position] and values [page, head, position, column].
        tiles: row of the table, first token, number of tokens, position of the first one.
        tables: pages of every sequence.
        weighing: how scores become weights.
        cols: columns of the values that exist; what pads them is left out.
    """
    keys, values = pools
    result = np.zeros((*q.shape[:2], cols), q.dtype)
    group = q.shape[1] // keys.shape[1]
    for sequence, first, count, position in tiles.tolist():
        for offset in range(count):
            seen = np.arange(position + offset + 1)
            if weighing.window:
                seen = seen[-weighing.window :]
            page, place = tables[sequence][seen // PAGE], seen % PAGE
            for head in range(q.shape[1]):
                shared = head // group
                k, v = keys[page, shared, :, place], values[page, shared, place, :cols]
                k, v = k.astype(q.dtype), v.astype(q.dtype)
                weights = _weights(k @ q[first + offset, head], weighing)
                result[first + offset, head] = weights @ v
    return result


def _weights(products: Array, weighing: Weighing) -> Array:
    scores = products * weighing.scale
    if weighing.softcap:
        scores = np.tanh(scores / weighing.softcap) * weighing.softcap
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())

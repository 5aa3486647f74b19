"""What all attention operators share: heads, biases, past and present, the standard operator."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Translation
from whet.words import counted

MASK_VALUE = -10000.0
"""What ONNX Runtime adds to the score of a masked key, unless the model says otherwise."""


class Attended(msgspec.Struct, frozen=True):
    """Queries, keys and values ``(batch, heads, length, size)``, and what is added to scores.

    Attributes:
        bias: of a shape that broadcasts to ``(batch, heads, queries, keys)``.
        scale: of the scores; ``None`` for ``1 / sqrt(size)``.
        softcap: scores become ``cap * tanh(score / cap)``; 0 leaves them.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    bias: ir.Value | None = None
    scale: float | None = None
    softcap: float = 0.0


def attend(t: Translation, given: Attended) -> ir.Value:
    """Return ``softmax(q k' scale + bias) v`` with heads merged: ``(batch, queries, hidden)``."""
    y = t.op(
        "Attention",
        given.q,
        given.k,
        given.v,
        given.bias,
        scale=given.scale,
        softcap=given.softcap or None,
    )
    return t.reshape(t.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def split_heads(t: Translation, x: ir.Value, heads: int) -> ir.Value:
    """Return ``(batch, length, hidden)`` as ``(batch, heads, length, size)``."""
    return t.transpose(t.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)


def scale_of(t: Translation) -> float | None:
    """Return the custom scale of the scores, or ``None``; models write 0 for none."""
    scale: float = t.take("scale", 0.0)
    return scale or None


def positions(t: Translation, count: ir.Value, first: ir.Value | None = None) -> ir.Value:
    """Return ``first, first + 1, …`` as int64 of rank 1; both are scalars."""
    start = np.array(0, np.int64) if first is None else first
    end = count if first is None else t.op("Add", first, count)
    return t.op("Range", start, end, np.array(1, np.int64))


def causal(t: Translation, q: ir.Value, k: ir.Value) -> ir.Value:
    """Return which keys each query sees: those up to its own place, counted from the end.

    Args:
        t: the node.
        q: queries, whose last is the last of the keys.
        k: keys, the past ones included.

    Returns:
        Booleans of shape ``(queries, keys)``.
    """
    keys, queries = t.extent(k, 2), t.extent(q, 2)
    places = positions(t, queries, t.op("Sub", keys, queries))
    return t.op("LessOrEqual", t.unsqueeze(positions(t, keys), 0), t.unsqueeze(places, 1))


def penalty(t: Translation, seen: ir.Value, value: float, like: ir.Value) -> ir.Value:
    """Return 0 where a key is seen, and a large negative number elsewhere."""
    return t.op("Where", seen, t.scalar(0.0, like), t.scalar(value, like))


def summed(t: Translation, *parts: ir.Value | None) -> ir.Value | None:
    """Add those biases that there are."""
    total: ir.Value | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else t.op("Add", total, part)
    return total


def mask_bias(t: Translation, mask: ir.Value, keys: ir.Value, like: ir.Value) -> ir.Value:
    """Return what a mask adds to the scores.

    Args:
        t: the node; its ``mask_filter_value`` is taken.
        mask: ``(batch, keys)``, ``(batch, queries, keys)``, 1 where a key is seen, or
            ``(batch)``, how many keys are, or ``(2 * batch)``, the ends and then the starts.
        keys: keys of shape ``(batch, heads, keys, size)``.
        like: scores' element type.
    """
    value = t.take("mask_filter_value", MASK_VALUE)
    rank = t.rank(mask)
    if rank == 4:
        raise t.refuse("a mask of rank 4 is not supported")
    if rank == 1:
        return penalty(t, _in_range(t, mask, keys), value, like)
    seen = t.op("Greater", mask, t.scalar(0, mask))
    return penalty(t, t.unsqueeze(seen, *((1, 2) if rank == 2 else (1,))), value, like)


def _in_range(t: Translation, ends: ir.Value, keys: ir.Value) -> ir.Value:
    """Return which keys lie before the ends, and not before the starts if there are any."""
    batch, count = t.dim(keys, 0), t.dim(ends, 0)
    same = ends.shape is not None and keys.shape is not None and ends.shape[0] == keys.shape[0]
    if same:
        batch = count = 1
    place = t.reshape(positions(t, t.extent(keys, 2)), 1, 1, 1, -1)
    wide = t.cast(ends, ir.DataType.INT64)
    if batch is None or count is None:
        return _in_open_range(t, wide, keys, place)
    if count == batch:
        return t.op("Less", place, t.reshape(wide, -1, 1, 1, 1))
    if count != 2 * batch:
        raise t.refuse(
            f"a mask of {counted(count, 'number')} for a batch of {batch} is not supported"
        )
    upper, lower = t.ops(2, "Split", t.reshape(wide, -1, 1, 1, 1), axis=0, num_outputs=2)
    before = t.op("Less", place, upper)
    return t.op("And", before, t.op("GreaterOrEqual", place, lower))


def _in_open_range(t: Translation, ends: ir.Value, keys: ir.Value, place: ir.Value) -> ir.Value:
    """Return the same where a run knows the batch: starts are 0 unless there are numbers for them.

    ``ends[n - b:]`` are the starts if there are ``n = 2 b`` numbers, and the ends if ``n = b``.
    """
    batch, count = t.length(keys, 0), t.length(ends, 0)
    upper = t.op("Slice", ends, np.array([0]), batch, np.array([0]))
    last = t.op("Slice", ends, t.op("Sub", count, batch), count, np.array([0]))
    given = t.cast(t.op("Greater", count, batch), ir.DataType.INT64)
    lower = t.op("Mul", last, given)
    before = t.op("Less", place, t.reshape(upper, -1, 1, 1, 1))
    return t.op("And", before, t.op("GreaterOrEqual", place, t.reshape(lower, -1, 1, 1, 1)))

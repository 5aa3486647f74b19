"""RotaryEmbedding, and the rotation inside of GroupQueryAttention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Foreign, Translation


def rotary_embedding(t: Translation) -> ir.Value:
    """RotaryEmbedding: the standard one, whose heads and positions are given otherwise."""
    x, places, cos, sin = (t.input(k) for k in range(4))
    t.only(is_packed_batching=0, scale=1.0)
    interleaved = t.take("interleaved", 0)
    heads, width = t.take("num_heads", 0), t.take("rotary_embedding_dim", 0)
    if t.rank(x) == 4:
        return rotated(t, x, (cos, sin), every_position(t, x, places), interleaved)
    if heads == 0:
        heads = _heads(t, x, cos, width)
    apart = t.transpose(t.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)
    y = rotated(t, apart, (cos, sin), every_position(t, apart, places), interleaved)
    return t.reshape(t.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def _heads(t: Translation, x: ir.Value, cos: ir.Value, width: int) -> int:
    """Return how many heads there are when each is as wide as the rotation."""
    if width:
        raise t.refuse("num_heads is missing beside rotary_embedding_dim")
    return t.fixed(x, 2) // (2 * t.fixed(cos, 1))


def every_position(t: Translation, x: ir.Value, places: ir.Value) -> ir.Value:
    """Return positions of shape (batch, length); a single one counts on from there."""
    wide = t.cast(places, ir.DataType.INT64)
    if t.rank(places) == 2:
        return wide
    length = t.extent(x, 2)
    counted = t.op("Range", np.array(0, np.int64), length, np.array(1, np.int64))
    row = t.unsqueeze(t.op("Add", counted, wide), 0)
    target = t.op("Concat", t.length(x, 0), t.length(x, 2), axis=0)
    return t.op("Expand", row, target)


def rotated(
    t: Translation,
    x: ir.Value,
    caches: tuple[ir.Value, ir.Value],
    places: ir.Value,
    interleaved: int,
) -> ir.Value:
    """Rotate ``(batch, heads, length, size)`` by the angles at positions (batch, length)."""
    width = 2 * t.fixed(caches[0], 1)
    partial = width if t.dim(x, 3) != width else 0
    return t.op(
        "RotaryEmbedding",
        x,
        *caches,
        places,
        interleaved=int(interleaved),
        rotary_embedding_dim=partial,
    )


OPS = (Foreign("RotaryEmbedding", rotary_embedding),)

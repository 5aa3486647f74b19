"""GroupQueryAttention: fewer heads of keys and values than of queries, and a cache of them.

Sequence ``b`` of a batch has ``seqlens_k[b] + 1`` tokens, the new ones included; the cache in front
of it may be longer than what that sequence uses, new keys follow its last used one.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.heads import (
    Attended,
    attend,
    penalty,
    positions,
    scale_of,
    split_heads,
    summed,
)
from whet.frontend.contrib.rotary import rotated
from whet.frontend.translation import Foreign, Translation

_LOWEST = float(np.finfo(np.float16).min)


class _Places(msgspec.Struct, frozen=True):
    """Where the tokens are.

    Attributes:
        used: tokens before the new ones, ``(batch, 1)``.
        new: position of every new token, ``(batch, queries)``.
        length: of the present cache, a scalar.
    """

    used: ir.Value
    new: ir.Value
    length: ir.Value


def group_query_attention(t: Translation) -> tuple[ir.Value | None, ...]:
    """GroupQueryAttention: rotation, cache, causal attention in a window."""
    t.only(qk_output=0, smooth_softmax=-1, sliding_window_cache=0, kv_cache_bit_width=0)
    t.only(k_quant_type="NONE", v_quant_type="NONE")
    t.absent(head_sink=11, k_scale=12, v_scale=13)
    heads, kv_heads = t.take("num_heads"), t.take("kv_num_heads")
    q, k, v = _apart(t, heads, kv_heads)
    q, k = _normed(t, q, k)
    past = t.optional(3)
    if past is not None and t.dim(past, 2) == 0:
        past = None
    places = _places(t, q, past)
    if t.take("do_rotary", 0):
        turns = t.take("rotary_interleaved", 0)
        given = t.optional(9)
        at = places.new if given is None else t.cast(given, ir.DataType.INT64)
        caches = (t.input(7), t.input(8))
        q, k = (rotated(t, x, caches, at, turns) for x in (q, k))
    if past is not None:
        k = _appended(t, past, k, places)
        v = _appended(t, t.input(4), v, places)
    bias = summed(t, _visible(t, q, places), t.optional(10))
    y = attend(t, Attended(q, k, v, bias, scale_of(t), t.take("softcap", 0.0)))
    return y, k, v


def _apart(t: Translation, heads: int, kv_heads: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    q, k, v = t.input(0), t.optional(1), t.optional(2)
    if k is None or v is None:
        size = t.fixed(q, 2) // (heads + 2 * kv_heads)
        widths = np.array([heads * size, kv_heads * size, kv_heads * size], np.int64)
        q, k, v = t.ops(3, "Split", q, widths, axis=-1)
    return split_heads(t, q, heads), split_heads(t, k, kv_heads), split_heads(t, v, kv_heads)


def _normed(t: Translation, q: ir.Value, k: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Normalise queries and keys head by head, if there are weights for it."""
    epsilon = t.take("qk_norm_epsilon", 1e-6)
    weights = (t.optional(14), t.optional(15))
    found = [
        x if w is None else t.op("RMSNormalization", x, w, axis=-1, epsilon=epsilon)
        for x, w in zip((q, k), weights, strict=True)
    ]
    return found[0], found[1]


def _places(t: Translation, q: ir.Value, past: ir.Value | None) -> _Places:
    queries = t.extent(q, 2)
    counted = t.unsqueeze(positions(t, queries), 0)
    totals = t.op("Add", t.cast(t.input(5), ir.DataType.INT64), np.array(1, np.int64))
    column = t.reshape(totals, -1, 1)
    if past is None:
        zero = t.op("Mul", column, np.array(0, np.int64))
        return _Places(zero, t.op("Add", zero, counted), queries)
    used = t.op("Sub", column, queries)
    length = t.op("Add", t.extent(past, 2), queries)
    return _Places(used, t.op("Add", used, counted), length)


def _appended(t: Translation, past: ir.Value, new: ir.Value, places: _Places) -> ir.Value:
    """Return the cache with new tokens behind each sequence's used ones.

    ``present[b, h, j] = past[b, h, j]`` for ``j < used[b]``, else ``new[b, h, j - used[b]]``; what
    lies behind the new ones is never attended to.
    """
    longest = t.op("Concat", past, new, axis=2)
    place = t.unsqueeze(positions(t, places.length), 0)
    behind = t.op("Sub", place, places.used)
    shifted = t.op("Add", behind, t.extent(past, 2))
    source = t.op("Where", t.op("Less", behind, np.array(0, np.int64)), place, shifted)
    last = t.op("Sub", places.length, np.array(1, np.int64))
    index = t.unsqueeze(t.op("Min", source, last), 1, 3)
    return t.op("GatherElements", longest, t.op("Expand", index, t.shape(longest)), axis=2)


def _visible(t: Translation, q: ir.Value, places: _Places) -> ir.Value:
    """Return the penalty of keys that a query may not see, ``(batch, 1, queries, keys)``."""
    window, one_sided = t.take("local_window_size", -1), t.take("causal", 1)
    key = t.reshape(positions(t, places.length), 1, 1, -1)
    query = t.unsqueeze(places.new, 2)
    if one_sided:
        seen = t.op("LessOrEqual", key, query)
    else:
        totals = t.op("Add", t.cast(t.input(5), ir.DataType.INT64), np.array(1, np.int64))
        seen = t.op("Less", key, t.reshape(totals, -1, 1, 1))
    if window > 0:
        oldest = t.op("Sub", query, np.array(window, np.int64))
        seen = t.op("And", seen, t.op("Greater", key, oldest))
    return penalty(t, t.unsqueeze(seen, 1), _LOWEST, q)


OPS = (Foreign("GroupQueryAttention", group_query_attention),)

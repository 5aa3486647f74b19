"""Attention and MultiHeadAttention, with projection, masks and past keys and values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.heads import (
    Attended,
    attend,
    causal,
    mask_bias,
    penalty,
    scale_of,
    split_heads,
    summed,
)
from whet.frontend.translation import Foreign, Translation

Projected = tuple[ir.Value, ir.Value, ir.Value]


def attention(t: Translation) -> tuple[ir.Value | None, ...]:
    """Attention: ``x W + b`` are queries, keys and values side by side."""
    bias = t.optional(2)
    product = t.op("MatMul", t.input(0), t.input(1))
    projected = product if bias is None else t.op("Add", product, bias)
    t.absent(past_sequence_length=6)
    return self_attention(t, projected, mask=t.optional(3), past=t.optional(4), added=t.optional(5))


def self_attention(
    t: Translation,
    projected: ir.Value,
    *,
    mask: ir.Value | None,
    past: ir.Value | None,
    added: ir.Value | None,
) -> tuple[ir.Value | None, ...]:
    """Return attention over projected queries, keys and values, and the present ones."""
    heads, sizes = t.take("num_heads"), t.take("qkv_hidden_sizes", ())
    t.only(do_rotary=0, past_present_share_buffer=0)
    one_sided = t.take("unidirectional", 0)
    parts = _thirds(t, projected, sizes)
    q, k, v = (split_heads(t, x, heads) for x in parts)
    if past is not None:
        before = t.ops(2, "Split", past, axis=0, num_outputs=2)
        k, v = (
            t.op("Concat", t.op("Squeeze", b, np.array([0])), x, axis=2)
            for b, x in zip(before, (k, v), strict=True)
        )
    bias = _scores_bias(t, (q, k), mask=mask, added=added, one_sided=one_sided)
    y = attend(t, Attended(q, k, v, bias, scale_of(t)))
    if not t.wants(1):
        return (y,)
    return y, t.op("Concat", t.unsqueeze(k, 0), t.unsqueeze(v, 0), axis=0)


def _thirds(t: Translation, x: ir.Value, sizes: tuple[int, ...]) -> tuple[ir.Value, ...]:
    if not sizes:
        return t.ops(3, "Split", x, axis=-1, num_outputs=3)
    return t.ops(3, "Split", x, np.array(sizes, np.int64), axis=-1)


def _scores_bias(
    t: Translation,
    qk: tuple[ir.Value, ir.Value],
    *,
    mask: ir.Value | None,
    added: ir.Value | None,
    one_sided: int,
) -> ir.Value | None:
    q, k = qk
    if mask is not None and t.rank(mask) == 1 and t.dim(mask, 0) == 0:
        mask = None
    hidden = mask_bias(t, mask, k, q) if mask is not None else t.take("mask_filter_value", None)
    lowest = float(np.finfo(np.float16).min)
    future = penalty(t, causal(t, q, k), lowest, q) if one_sided else None
    return summed(t, hidden if isinstance(hidden, ir.Value) else None, future, added)


def multi_head_attention(t: Translation) -> tuple[ir.Value | None, ...]:
    """MultiHeadAttention: queries, keys and values are given, apart or packed."""
    t.absent(past_sequence_length=8, cache_indirection=9)
    heads, one_sided = t.take("num_heads"), t.take("unidirectional", 0)
    q, k, v = _biased(t, _unpacked(t, heads), heads)
    if t.optional(6) is not None:
        k = t.op("Concat", t.input(6), k, axis=2)
        v = t.op("Concat", t.input(7), v, axis=2)
    bias = _scores_bias(t, (q, k), mask=t.optional(4), added=t.optional(5), one_sided=one_sided)
    return attend(t, Attended(q, k, v, bias, scale_of(t))), k, v


def _unpacked(t: Translation, heads: int) -> Projected:
    """Return queries, keys and values with heads apart, before any bias."""
    q, k, v = t.input(0), t.optional(1), t.optional(2)
    if t.rank(q) == 5:
        return _packed(t, q, 3)  # type: ignore[return-value]
    query = split_heads(t, q, heads)
    if k is None:
        raise t.refuse("key is missing")
    if t.rank(k) == 5:
        key, value = _packed(t, k, 2)
        return query, key, value
    if v is None:
        raise t.refuse("value is missing")
    key, value = (x if t.rank(x) == 4 else split_heads(t, x, heads) for x in (k, v))
    return query, key, value


def _packed(t: Translation, x: ir.Value, count: int) -> tuple[ir.Value, ...]:
    """Take ``(batch, length, heads, count, size)`` apart."""
    parts = t.ops(count, "Split", x, axis=3, num_outputs=count)
    return tuple(t.transpose(t.op("Squeeze", p, np.array([3])), 0, 2, 1, 3) for p in parts)


def _biased(t: Translation, qkv: Projected, heads: int) -> Projected:
    """Add the bias of the projection; keys and values of a cross attention's past have theirs."""
    bias = t.optional(3)
    if bias is None:
        return qkv
    size, total = t.fixed(qkv[0], 3), t.fixed(bias, 0)
    widths = (heads * size, heads * size, total - 2 * heads * size)
    parts = t.ops(3, "Split", bias, np.array(widths, np.int64), axis=0)
    key = t.optional(1)
    done = key is not None and t.rank(key) == 4
    found = [
        x if done and place else t.op("Add", x, t.unsqueeze(t.reshape(b, heads, -1), 1))
        for place, (x, b) in enumerate(zip(qkv, parts, strict=True))
    ]
    return found[0], found[1], found[2]


OPS = (Foreign("Attention", attention), Foreign("MultiHeadAttention", multi_head_attention))

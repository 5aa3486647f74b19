"""Normalisation over the last axis with residuals, over groups, and the embeddings of BERT."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.layouts import channels_first, channels_last
from whet.frontend.translation import Foreign, Translation

_EPSILON = 1e-12
"""The default of the operators with a residual."""


def simplified_layer_norm(t: Translation) -> tuple[ir.Value, ...]:
    """SimplifiedLayerNormalization: ``x / sqrt(mean(x²) + eps) * gamma``, from ``axis`` on."""
    x, axis, epsilon = t.input(0), t.take("axis", -1), t.take("epsilon", 1e-5)
    stash = t.take("stash_type", 1)
    y = t.op("RMSNormalization", x, t.input(1), axis=axis, epsilon=epsilon, stash_type=stash)
    return (y, _inverse_rms(t, x, axis, epsilon)) if t.wants(1) else (y,)


def _inverse_rms(t: Translation, x: ir.Value, axis: int, epsilon: float) -> ir.Value:
    """Return ``1 / sqrt(mean(x²) + eps)`` in float32."""
    wide = t.cast(x, ir.DataType.FLOAT)
    axes = np.arange(axis % t.rank(x), t.rank(x))
    mean = t.op("ReduceMean", t.op("Mul", wide, wide), axes)
    return t.op("Reciprocal", t.op("Sqrt", t.op("Add", mean, t.scalar(epsilon, mean))))


def skip_layer_norm(t: Translation) -> tuple[ir.Value | None, ...]:
    """SkipLayerNormalization: layer normalisation of ``x + skip + bias``."""
    total = _sum(t, t.input(0), t.input(1), t.optional(4))
    epsilon, gamma, beta = t.take("epsilon", _EPSILON), t.input(2), t.optional(3)
    found = t.ops(3, "LayerNormalization", total, gamma, beta, axis=-1, epsilon=epsilon)
    return (*found, total)


def skip_simplified_layer_norm(t: Translation) -> tuple[ir.Value | None, ...]:
    """SkipSimplifiedLayerNormalization: RMS normalisation of ``x + skip + bias``."""
    total = _sum(t, t.input(0), t.input(1), t.optional(3))
    epsilon = t.take("epsilon", _EPSILON)
    y = t.op("RMSNormalization", total, t.input(2), axis=-1, epsilon=epsilon)
    inverse = _inverse_rms(t, total, -1, epsilon) if t.wants(2) else None
    return y, None, inverse, total


def _sum(t: Translation, x: ir.Value, skip: ir.Value, bias: ir.Value | None) -> ir.Value:
    total = t.op("Add", x, skip)
    return total if bias is None else t.op("Add", total, bias)


def embed_layer_norm(t: Translation) -> tuple[ir.Value | None, ...]:
    """EmbedLayerNormalization: layer normalisation of the sum of up to three embeddings."""
    ids, segments, positions = t.input(0), t.optional(1), t.optional(8)
    return embeddings_normed(
        t,
        t.op("Gather", t.input(2), ids),
        _positions(t, t.input(3), positions, ids),
        None if segments is None else t.op("Gather", t.input(4), segments),
        (t.input(5), t.input(6)),
    )


def embeddings_normed(
    t: Translation,
    words: ir.Value,
    places: ir.Value,
    segments: ir.Value | None,
    affine: tuple[ir.Value, ir.Value],
) -> tuple[ir.Value | None, ...]:
    """Return the normalised sum, the lengths by the mask in input 7, and the sum."""
    total = t.op("Add", words, places)
    if segments is not None:
        total = t.op("Add", total, segments)
    epsilon = t.take("epsilon", _EPSILON)
    y = t.op("LayerNormalization", total, *affine, axis=-1, epsilon=epsilon)
    return y, (_lengths(t) if t.wants(1) else None), total


def _positions(
    t: Translation, table: ir.Value, positions: ir.Value | None, ids: ir.Value
) -> ir.Value:
    """Look up the given positions, by default the first of the table."""
    if positions is not None:
        return t.op("Gather", table, positions)
    return t.slice(table, 0, 0, t.length(ids, 1))


def _lengths(t: Translation) -> ir.Value:
    """Return how many tokens of each sequence the mask shows, as int32; 0 without a mask."""
    mask = t.optional(7)
    if mask is None:
        zero = ir.Tensor(np.zeros(1, np.int32))
        return t.op("ConstantOfShape", t.length(t.input(0), 0), value=zero)
    return t.op("ReduceSum", t.cast(mask, ir.DataType.INT32), np.array([1]), keepdims=0)


def group_norm(t: Translation) -> ir.Value:
    """GroupNorm: group normalisation, channels last or first, perhaps with SiLU behind it."""
    return _group_norm(t, t.input(0), last=t.take("channels_last", 1))


def skip_group_norm(t: Translation) -> tuple[ir.Value, ir.Value]:
    """SkipGroupNorm: group normalisation of ``x + skip + bias``, and that sum."""
    x, skip, bias = t.input(0), t.input(3), t.optional(4)
    last = t.take("channels_last", 1)
    if t.rank(skip) == 2:
        skip = t.unsqueeze(skip, *((1, 2) if last else (2, 3)))
    total = t.op("Add", x, skip)
    if bias is not None:
        total = t.op("Add", total, bias if last else t.unsqueeze(bias, 1, 2))
    return _group_norm(t, total, last=last), total


def _group_norm(t: Translation, x: ir.Value, *, last: int) -> ir.Value:
    groups, epsilon, activation = t.take("groups"), t.take("epsilon", 1e-5), t.take("activation")
    if activation not in (0, 1):
        raise t.refuse(f"activation={activation} is not supported")
    plain = channels_first(t, x) if last else x
    affine = [t.cast(t.input(k), t.dtype(x)) for k in (1, 2)]
    y = t.op("GroupNormalization", plain, *affine, num_groups=groups, epsilon=epsilon)
    t.of_shape(y, plain)
    y = t.of_shape(t.op("Swish", y), plain) if activation else y
    return channels_last(t, y) if last else y


SIMPLIFIED = Foreign("SimplifiedLayerNormalization", simplified_layer_norm)

OPS = (
    SIMPLIFIED,
    Foreign("SkipLayerNormalization", skip_layer_norm),
    Foreign("SkipSimplifiedLayerNormalization", skip_simplified_layer_norm),
    Foreign("EmbedLayerNormalization", embed_layer_norm, ignored=("mask_index_type",)),
    Foreign("GroupNorm", group_norm),
    Foreign("SkipGroupNorm", skip_group_norm),
)

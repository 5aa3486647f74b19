"""Products of quantised matrices: in integers where only the result is a float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.attention import self_attention
from whet.frontend.contrib.norms import embeddings_normed
from whet.frontend.contrib.packed import numbers_of, quantised_tensor
from whet.frontend.contrib.quantised import dequantise, quantised
from whet.frontend.translation import Foreign, Translation


def qgemm(t: Translation) -> ir.Value:
    """QGemm: ``alpha * A' B' + alpha * a_scale * b_scale * C``, quantised or not.

    ``C`` is int32 in the scale of the product.
    """
    alpha, flip_a, flip_b = t.take("alpha", 1.0), t.take("transA", 0), t.take("transB", 0)
    a = dequantise(t, t.input(0), t.input(1), t.optional(2))
    b = dequantise(t, t.input(3), t.input(4), t.optional(5), 0 if flip_b else 1)
    c = t.optional(6)
    if c is not None:
        scale = t.op("Mul", t.input(1), t.input(4))
        c = t.op("Mul", t.cast(c, ir.DataType.FLOAT), scale)
    y = t.op("Gemm", a, b, c, alpha=alpha, beta=alpha, transA=flip_a, transB=flip_b)
    return y if t.optional(7) is None else quantised(t, y, 7, like=t.input(0))


def dynamic_quantize_matmul(t: Translation) -> ir.Value:
    """DynamicQuantizeMatMul: ``A`` is quantised in its own range when the model runs."""
    a, scale, zero = t.ops(3, "DynamicQuantizeLinear", t.input(0))
    product = t.op("MatMulInteger", a, t.input(1), zero, t.optional(3))
    return _scaled(t, product, t.op("Mul", scale, t.input(2)), t.optional(4))


def matmul_integer_to_float(t: Translation) -> ir.Value:
    """MatMulIntegerToFloat: the integer product times both scales."""
    product = t.op("MatMulInteger", t.input(0), t.input(1), t.optional(4), t.optional(5))
    return _scaled(t, product, t.op("Mul", t.input(2), t.input(3)), t.optional(6))


def _scaled(t: Translation, product: ir.Value, scale: ir.Value, bias: ir.Value | None) -> ir.Value:
    y = t.op("Mul", t.cast(product, t.dtype(scale)), scale)
    return y if bias is None else t.op("Add", y, bias)


def matmul_integer_16(t: Translation) -> ir.Value:
    """MatMulInteger16: an int32 product of 16-bit integers."""
    return t.op("MatMul", *(t.cast(t.input(k), ir.DataType.INT32) for k in (0, 1)))


def qattention(t: Translation) -> tuple[ir.Value | None, ...]:
    """QAttention: the projection is of quantised matrices, the attention of floats."""
    product = t.op("MatMulInteger", t.input(0), t.input(1), t.optional(6), t.optional(7))
    scale = t.op("Mul", t.input(3), t.input(4))
    projected = _scaled(t, product, scale, t.input(2))
    return self_attention(t, projected, mask=t.optional(5), past=t.optional(8), added=None)


def qembed_layer_norm(t: Translation) -> tuple[ir.Value | None, ...]:
    """QEmbedLayerNormalization: all tables are quantised, with one scale each."""
    words, places, segments, gamma, beta = (
        None
        if t.optional(table) is None
        else dequantise(t, t.input(table), t.input(scale), t.optional(scale + 5))
        for table, scale in ((2, 8), (3, 9), (4, 10), (5, 11), (6, 12))
    )
    assert words is not None and places is not None and gamma is not None and beta is not None
    ids, kinds = t.input(0), t.optional(1)
    found = embeddings_normed(
        t,
        t.op("Gather", words, ids),
        t.slice(places, 0, 0, t.length(ids, 1)),
        None if kinds is None or segments is None else t.op("Gather", segments, kinds),
        (gamma, beta),
    )
    return found[:2]


def gather_block_quantized(t: Translation) -> ir.Value:
    """GatherBlockQuantized: rows of a table that is quantised in blocks of its last axis."""
    bits, block = t.take("bits", 4), t.take("block_size", 128)
    gather, axis = t.take("gather_axis", 0), t.take("quantize_axis", 1)
    data, scales = t.input(0), t.input(2)
    rank = t.rank(data)
    zero = t.optional(3)
    if t.dtype(data) == ir.DataType.UINT8 and bits < 8:
        data = t.tensor(quantised_tensor(numbers_of(t.constant(data), bits), bits))
        if zero is not None:
            numbers = numbers_of(t.constant(zero), bits)
            count = t.fixed(scales, axis % rank)
            zero = t.tensor(quantised_tensor(numbers[..., :count], bits))
    if zero is None and t.dtype(t.input(0)) == ir.DataType.UINT8:
        shape = [t.fixed(scales, k) for k in range(rank)]
        zero = t.tensor(quantised_tensor(np.full(shape, 1 << (bits - 1), np.uint8), bits))
    table = t.op("DequantizeLinear", data, scales, zero, axis=axis, block_size=block)
    return t.op("Gather", table, t.input(1), axis=gather)


def dynamic_quantize_lstm(t: Translation) -> tuple[ir.Value, ...]:
    """DynamicQuantizeLSTM: an LSTM whose weights are quantised and lie transposed.

    The original also rounds its inputs to 8 bits at every step; here they are left as they are,
    which is nearer to the model before quantisation.
    """
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction")
    weights = [_recurrent_weights(t, t.input(k), first) for k, first in ((1, 8), (2, 10))]
    attributes = t.rest(*names, "hidden_size", "input_forget")
    inputs = [t.input(0), *weights, *(t.optional(k) for k in range(3, 8))]
    return t.ops(3, "LSTM", *inputs, **attributes)


def _recurrent_weights(t: Translation, weights: ir.Value, first: int) -> ir.Value:
    """Return ``(directions, gates, width)`` of quantised ``(directions, width, gates)``."""
    scale, zero = (
        t.unsqueeze(x, *((1, 2) if t.rank(x) == 1 else (1,)))
        for x in (t.input(first), t.input(first + 1))
    )
    wide = t.cast(weights, ir.DataType.FLOAT)
    offset = t.op("Sub", wide, t.cast(zero, ir.DataType.FLOAT))
    return t.transpose(t.op("Mul", offset, scale), 0, 2, 1)


OPS = (
    Foreign("QGemm", qgemm),
    Foreign("DynamicQuantizeMatMul", dynamic_quantize_matmul),
    Foreign("MatMulIntegerToFloat", matmul_integer_to_float),
    Foreign("MatMulInteger16", matmul_integer_16),
    Foreign("QAttention", qattention),
    Foreign("QEmbedLayerNormalization", qembed_layer_norm),
    Foreign("GatherBlockQuantized", gather_block_quantized),
    Foreign("DynamicQuantizeLSTM", dynamic_quantize_lstm),
)

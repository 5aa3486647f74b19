"""Matrix products with transposition, scale and activation; products by quantised weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.activations import activate
from whet.frontend.contrib.packed import numbers_of, quantised_tensor
from whet.frontend.translation import Foreign, Translation


def fused_matmul(t: Translation) -> ir.Value:
    """FusedMatMul: ``alpha * A' B'``, each transposed as asked."""
    a = _turned(t, t.input(0), matrix=t.take("transA", 0), batch=t.take("transBatchA", 0))
    b = _turned(t, t.input(1), matrix=t.take("transB", 0), batch=t.take("transBatchB", 0))
    alpha = t.take("alpha", 1.0)
    product = t.op("MatMul", a, b)
    return product if alpha == 1.0 else t.op("Mul", product, t.scalar(alpha, product))


def _turned(t: Translation, x: ir.Value, *, matrix: int, batch: int) -> ir.Value:
    """Transpose the last two dims, and move the first dim behind the batch dims."""
    order = list(range(t.rank(x)))
    if batch and len(order) > 2:
        order = [*order[1:-1], 0, order[-1]]
    if matrix and len(order) > 1:
        order[-2], order[-1] = order[-1], order[-2]
    return x if order == sorted(order) else t.transpose(x, *order)


def fused_matmul_activation(t: Translation) -> ir.Value:
    """FusedMatMulActivation: a FusedMatMul and an activation behind it."""
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    name, given = t.take("activation"), t.rest(*names)
    axis = t.take("activation_axis", -1)
    product = fused_matmul(t)
    if name == "Softmax":
        return t.op("Softmax", product, axis=axis)
    return activate(t, product, name, [given[n] for n in names if n in given])


def fused_gemm(t: Translation) -> ir.Value:
    """FusedGemm: a Gemm and an activation behind it."""
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    name, given = t.take("activation", ""), t.rest(*names)
    attributes = t.rest("alpha", "beta", "transA", "transB")
    product = t.op("Gemm", t.input(0), t.input(1), t.optional(2), **attributes)
    return activate(t, product, name, [given[n] for n in names if n in given])


def matmul_n_bits(t: Translation) -> ir.Value:
    """MatMulNBits: ``A W' + bias`` with the rows of W quantised in blocks.

    ``B`` holds ``(N, blocks, bytes)`` with the lowest bits first; zero points are packed alike, or
    of the type of the scales.
    """
    bits, block = t.take("bits", 4), t.take("block_size")
    rows, depth = t.take("N"), t.take("K")
    t.only(weight_prepacked=0)
    if t.optional(4) is not None and t.constant(t.input(4)).size:
        raise t.refuse("input g_idx is not supported")
    if bits not in (2, 4, 8):
        raise t.refuse(f"bits={bits} is not supported")
    blocks = -(-depth // block)
    packed = t.constant(t.input(1)).reshape(rows, -1)
    weight = t.tensor(quantised_tensor(numbers_of(packed, bits), bits))
    scales = t.op("Reshape", t.input(2), np.array([rows, blocks], np.int64))
    zero = _zero_points(t, t.optional(3), bits, (rows, blocks))
    if isinstance(zero, ir.Value):
        quantised = t.cast(weight, t.dtype(scales))
        spread = [t.op("Reshape", _each(t, x, block), t.shape(quantised)) for x in (zero, scales)]
        whole = t.op("Mul", t.op("Sub", quantised, spread[0]), spread[1])
    else:
        whole = t.op("DequantizeLinear", weight, scales, t.tensor(zero), axis=1, block_size=block)
    if blocks * block != depth:
        whole = t.slice(whole, 1, 0, depth)
    product = t.op("MatMul", t.input(0), t.transpose(t.cast(whole, t.dtype(t.input(0))), 1, 0))
    bias = t.optional(5)
    return product if bias is None else t.op("Add", product, bias)


def _each(t: Translation, x: ir.Value, times: int) -> ir.Value:
    """Repeat every element of a matrix along a new last dim."""
    return t.op("Tile", t.unsqueeze(x, 2), np.array([1, 1, times], np.int64))


def _zero_points(
    t: Translation, given: ir.Value | None, bits: int, shape: tuple[int, int]
) -> ir.Value | ir.TensorProtocol:
    """Return the zero point of each block: quantised, or as numbers of the scales' type."""
    if given is None:
        middle = np.full(shape, 1 << (bits - 1), np.uint8)
        return quantised_tensor(middle, bits)
    if t.dtype(given).is_floating_point():
        return t.op("Reshape", given, np.array(shape, np.int64))
    packed = t.constant(given).reshape(shape[0], -1)
    return quantised_tensor(numbers_of(packed, bits)[:, : shape[1]], bits)


OPS = (
    Foreign("FusedMatMul", fused_matmul),
    Foreign("TransposeMatMul", fused_matmul),
    Foreign("FusedMatMulActivation", fused_matmul_activation),
    Foreign("FusedGemm", fused_gemm),
    Foreign("MatMulNBits", matmul_n_bits, ignored=("accuracy_level",)),
)

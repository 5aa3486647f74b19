"""Matrix products with transposition, scale and activation."""

from __future__ import annotations

import onnx_ir as ir

from whet.frontend.contrib.activations import activate
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


OPS = (
    Foreign("FusedMatMul", fused_matmul),
    Foreign("TransposeMatMul", fused_matmul),
    Foreign("FusedMatMulActivation", fused_matmul_activation),
    Foreign("FusedGemm", fused_gemm),
)

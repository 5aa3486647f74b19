"""Activations with a bias or under another name, and the ones that are fused into other nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Foreign, Translation
from whet.words import counted

_PARAMETERS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Abs": (),
    "Neg": (),
    "Exp": (),
    "Sqrt": (),
    "Log": (),
    "Gelu": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "Celu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}
"""The attributes of each activation, in the order in which its numbers are written."""


def activate(t: Translation, x: ir.Value, name: str, numbers: Sequence[float]) -> ir.Value:
    """Apply a fused activation.

    Raises:
        UnsupportedError: it is not known, or has another number of parameters.
    """
    if not name:
        return x
    if name == "Clip" and len(numbers) == 2:
        return t.op("Clip", x, t.scalar(numbers[0], x), t.scalar(numbers[1], x))
    if name == "QuickGelu" and len(numbers) <= 1:
        return t.op("Swish", x, alpha=numbers[0] if numbers else 1.702)
    attributes = _PARAMETERS.get(name)
    if attributes is None or len(numbers) > len(attributes):
        raise t.refuse(
            f"the activation {name} with {counted(len(numbers), 'parameter')} is not supported"
        )
    return t.op(name, x, **dict(zip(attributes, map(float, numbers), strict=False)))


def gelu(t: Translation) -> ir.Value:
    """Gelu: with the error function, as ONNX defines it."""
    return t.op("Gelu", t.input(0))


def bias_gelu(t: Translation) -> ir.Value:
    """BiasGelu: ``gelu(x + b)``."""
    return t.op("Gelu", t.op("Add", t.input(0), t.input(1)))


def fast_gelu(t: Translation) -> ir.Value:
    """FastGelu: ``gelu(x + b)`` by the hyperbolic tangent; the bias is optional."""
    return t.op("Gelu", _with_bias(t, t.input(0), t.optional(1)), approximate="tanh")


def gemm_fast_gelu(t: Translation) -> ir.Value:
    """GemmFastGelu: ``gelu(x w + b)`` by the hyperbolic tangent."""
    product = t.op("MatMul", t.input(0), t.input(1))
    return t.op("Gelu", _with_bias(t, product, t.optional(2)), approximate="tanh")


def _with_bias(t: Translation, x: ir.Value, bias: ir.Value | None) -> ir.Value:
    return x if bias is None else t.op("Add", x, bias)


def quick_gelu(t: Translation) -> ir.Value:
    """QuickGelu: ``x / (1 + exp(-alpha x))``."""
    return t.op("Swish", t.input(0), alpha=t.take("alpha", 1.702))


def scaled_silu(t: Translation) -> ir.Value:
    """ScaledSiLU: ``alpha x / (1 + exp(-x))``; an input may take the place of ``alpha``."""
    x, scale = t.input(0), t.optional(1)
    alpha = t.take("alpha", 1.0)
    swish = t.op("Swish", x)
    if scale is None:
        return t.op("Mul", swish, t.scalar(alpha, x))
    return t.op("Mul", swish, t.cast(scale, t.dtype(x)))


def bias_split_gelu(t: Translation) -> ir.Value:
    """BiasSplitGelu: ``a * gelu(b)`` of the two halves of ``x + bias``."""
    value, gate = t.ops(2, "Split", t.op("Add", t.input(0), t.input(1)), axis=-1, num_outputs=2)
    return t.op("Mul", value, t.op("Gelu", gate))


def bias_add(t: Translation) -> ir.Value:
    """BiasAdd: ``x + bias + skip``."""
    return t.op("Add", t.op("Add", t.input(0), t.input(1)), t.input(2))


def bias_softmax(t: Translation) -> ir.Value:
    """BiasSoftmax: softmax of ``x + bias`` over all dims from ``axis`` on.

    The bias repeats over the leading dims, or over those between its own first ones and ``axis``.
    """
    x, bias, axis = t.input(0), t.input(1), t.take("axis", 1)
    inner = t.take("is_inner_broadcast")
    axis %= t.rank(x)
    missing = t.rank(x) - t.rank(bias)
    if inner and missing:
        bias = t.unsqueeze(bias, *range(axis - missing, axis))
    return softmax_from(t, t.op("Add", x, bias), axis)


def softmax_from(t: Translation, x: ir.Value, axis: int) -> ir.Value:
    """Take a softmax over all dims from an axis on."""
    if axis == t.rank(x) - 1:
        return t.op("Softmax", x, axis=-1)
    flat = t.op("Softmax", t.op("Flatten", x, axis=axis), axis=-1)
    return t.op("Reshape", flat, t.shape(x))


def bias_dropout(t: Translation) -> tuple[ir.Value, ir.Value]:
    """BiasDropout: ``x + bias + residual``; nothing is dropped when a model is used."""
    training = t.optional(4)
    if training is not None and bool(t.constant(training)):
        raise t.refuse("training_mode=1 is not supported")
    x = t.op("Add", t.input(0), t.input(1))
    residual = t.optional(2)
    mask = t.op("ConstantOfShape", t.shape(x), value=ir.Tensor(np.array([True])))
    return (x if residual is None else t.op("Add", x, residual)), mask


OPS = (
    Foreign("Gelu", gelu),
    Foreign("BiasGelu", bias_gelu),
    Foreign("FastGelu", fast_gelu),
    Foreign("GemmFastGelu", gemm_fast_gelu),
    Foreign("QuickGelu", quick_gelu),
    Foreign("ScaledSiLU", scaled_silu),
    Foreign("BiasSplitGelu", bias_split_gelu),
    Foreign("BiasAdd", bias_add),
    Foreign("BiasSoftmax", bias_softmax),
    Foreign("BiasDropout", bias_dropout, ignored=("seed",)),
)

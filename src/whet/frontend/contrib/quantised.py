"""Operators on quantised tensors: dequantise, the operator, quantise again.

Scales and zero points are numbers or vectors of one; both are made scalars, which the standard
operators ask for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.activations import softmax_from
from whet.frontend.contrib.layouts import channels_first, channels_last
from whet.frontend.translation import Foreign, Translation


def dequantised(t: Translation, first: int, axis: int | None = None) -> ir.Value:
    """Return the numbers that inputs ``first`` (with scale and zero point behind it) stand for."""
    return dequantise(t, t.input(first), t.input(first + 1), t.optional(first + 2), axis)


def dequantise(
    t: Translation, x: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int | None = None
) -> ir.Value:
    """Return ``(x - zero) * scale``."""
    plain = _plain(t, scale)
    return t.op(
        "DequantizeLinear",
        x,
        plain,
        None if zero is None else _plain(t, zero),
        axis=axis if axis is not None and t.rank(plain) else None,
    )


def quantised(
    t: Translation, y: ir.Value, first: int, *, like: ir.Value, axis: int | None = None
) -> ir.Value:
    """Return ``y`` in the scale of input ``first`` and the zero point behind it."""
    zero = t.optional(first + 1)
    if zero is None:
        zero = t.op("Constant", value=ir.Tensor(np.zeros((), t.dtype(like).numpy())))
    scale, plain_zero = _plain(t, t.input(first)), _plain(t, zero)
    return t.op("QuantizeLinear", y, scale, plain_zero, axis=axis if t.rank(scale) else None)


def _plain(t: Translation, x: ir.Value) -> ir.Value:
    """Return a scalar if there is one number, else what is given."""
    return t.reshape(x) if t.rank(x) == 1 and t.dim(x, 0) == 1 else x


def binary(op_type: str) -> Callable[[Translation], ir.Value]:
    """Return the translation of an operator of two quantised tensors."""

    def translate(t: Translation) -> ir.Value:
        y = t.op(op_type, dequantised(t, 0), dequantised(t, 3))
        return quantised(t, y, 6, like=t.input(0))

    return translate


def unary(op_type: str, *attributes: str) -> Callable[[Translation], ir.Value]:
    """Return the translation of an operator of one quantised tensor."""

    def translate(t: Translation) -> ir.Value:
        y = t.op(op_type, dequantised(t, 0), **t.rest(*attributes))
        return quantised(t, y, 3, like=t.input(0))

    return translate


def leaky_relu(t: Translation) -> ir.Value:
    """QLinearLeakyRelu."""
    y = t.op("LeakyRelu", dequantised(t, 0), alpha=t.take("alpha", 0.01))
    return quantised(t, y, 3, like=t.input(0))


def softmax(t: Translation) -> ir.Value:
    """QLinearSoftmax: of one axis from opset 13 on, before of all from that axis on."""
    opset, axis = t.take("opset"), t.take("axis", -1)
    x = dequantised(t, 0)
    y = t.op("Softmax", x, axis=axis) if opset >= 13 else softmax_from(t, x, axis % t.rank(x))
    return quantised(t, y, 3, like=t.input(0))


def concat(t: Translation) -> ir.Value:
    """QLinearConcat: the output's scale and zero point come first."""
    count = (len(t.node.inputs) - 2) // 3
    parts = [dequantised(t, 2 + 3 * k) for k in range(count)]
    return quantised(t, t.op("Concat", *parts, axis=t.take("axis")), 0, like=t.input(2))


def average_pool(t: Translation) -> ir.Value:
    """QLinearAveragePool, channels first or last."""
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    attributes = t.rest(*names)
    return _pooled(t, lambda x: t.op("AveragePool", x, **attributes))


def global_average_pool(t: Translation) -> ir.Value:
    """QLinearGlobalAveragePool, channels first or last."""
    return _pooled(t, lambda x: t.op("GlobalAveragePool", x))


def _pooled(t: Translation, pool: Callable[[ir.Value], ir.Value]) -> ir.Value:
    last, x = t.take("channels_last", 0), dequantised(t, 0)
    y = channels_last(t, pool(channels_first(t, x))) if last else pool(x)
    return quantised(t, y, 3, like=t.input(0))


def reduce_mean(t: Translation) -> ir.Value:
    """QLinearReduceMean."""
    axes = np.array(t.take("axes"), np.int64)
    y = t.op("ReduceMean", dequantised(t, 0), axes, keepdims=t.take("keepdims"))
    return quantised(t, y, 3, like=t.input(0))


def where(t: Translation) -> ir.Value:
    """QLinearWhere."""
    condition = t.cast(t.input(0), ir.DataType.BOOL)
    y = t.op("Where", condition, dequantised(t, 1), dequantised(t, 4))
    return quantised(t, y, 7, like=t.input(1))


def conv(t: Translation) -> ir.Value:
    """QLinearConv: the standard one; images may lie channels last."""
    inputs = list(t.node.inputs)
    last = t.take("channels_last", 0)
    if last:
        inputs[0] = channels_first(t, t.input(0))
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    y = t.op("QLinearConv", *inputs, **t.rest(*names))
    return channels_last(t, y) if last else y


def linear(op_type: str) -> Callable[[Translation], ir.Value]:
    """Return the translation of QuantizeLinear or DequantizeLinear."""

    def translate(t: Translation) -> ir.Value:
        scale, zero = _plain(t, t.input(1)), t.optional(2)
        axis = t.take("axis", 1)
        return t.op(
            op_type,
            t.input(0),
            scale,
            None if zero is None else _plain(t, zero),
            axis=axis if t.rank(scale) else None,
        )

    return translate


def mul_integer(t: Translation) -> ir.Value:
    """MulInteger: int32 product of two quantised tensors without their scales."""
    parts = []
    for k in (0, 2):
        x, zero = t.cast(t.input(k), ir.DataType.INT32), t.optional(k + 1)
        offset = None if zero is None else t.cast(_plain(t, zero), ir.DataType.INT32)
        parts.append(x if offset is None else t.op("Sub", x, offset))
    return t.op("Mul", *parts)


def wide_sum(t: Translation) -> ir.Value:
    """ReduceSumInteger: an int32 sum of small integers."""
    axes, keep = np.array(t.take("axes"), np.int64), t.take("keepdims")
    kind = t.dtype(t.input(0))
    wide = ir.DataType.UINT32 if kind == ir.DataType.UINT8 else ir.DataType.INT32
    return t.op("ReduceSum", t.cast(t.input(0), wide), axes, keepdims=keep)


OPS = (
    Foreign("QLinearAdd", binary("Add")),
    Foreign("QLinearMul", binary("Mul")),
    Foreign("QLinearSigmoid", unary("Sigmoid")),
    Foreign("QLinearLeakyRelu", leaky_relu),
    Foreign("QLinearSoftmax", softmax),
    Foreign("QLinearConcat", concat),
    Foreign("QLinearAveragePool", average_pool),
    Foreign("QLinearGlobalAveragePool", global_average_pool),
    Foreign("QLinearReduceMean", reduce_mean),
    Foreign("QLinearWhere", where),
    Foreign("QLinearConv", conv),
    Foreign("QuantizeLinear", linear("QuantizeLinear")),
    Foreign("DequantizeLinear", linear("DequantizeLinear")),
    Foreign("MulInteger", mul_integer),
    Foreign("ReduceSumInteger", wide_sum),
)

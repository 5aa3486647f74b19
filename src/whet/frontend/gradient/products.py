"""Derivatives of products, sums over axes and what is made of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.gradient.rule import Back, Rule, Slopes


def _turned(b: Back, value: ir.Value) -> ir.Value:
    """Transpose the last two dims."""
    rank = b.t.rank(value)
    return b.t.transpose(value, *range(rank - 2), rank - 1, rank - 2)


def _matmul(b: Back) -> Slopes:
    """``dA = G B^T`` and ``dB = A^T G``, vectors as matrices of one row or column."""
    one, other, slope = b.x(0), b.x(1), b.slope
    row, column = b.t.rank(one) == 1, b.t.rank(other) == 1
    left = b.t.unsqueeze(one, 0) if row else one
    right = b.t.unsqueeze(other, 1) if column else other
    if column:
        slope = b.t.unsqueeze(slope, -1)
    if row:
        slope = b.t.unsqueeze(slope, -2)
    first = b.onto(b.op("MatMul", slope, _turned(b, right)), left)
    second = b.onto(b.op("MatMul", _turned(b, left), slope), right)
    return [
        b.op("Squeeze", first, np.array([0], np.int64)) if row else first,
        b.op("Squeeze", second, np.array([1], np.int64)) if column else second,
    ]


def _gemm(b: Back) -> Slopes:
    """``Y = alpha A' B' + beta C``; either factor may come transposed."""
    slope = b.slope
    scaled = b.mul(slope, b.number(b.attribute("alpha", 1.0)))
    turned_a, turned_b = bool(b.attribute("transA", 0)), bool(b.attribute("transB", 0))
    right = b.x(1) if turned_b else _turned(b, b.x(1))
    left = b.x(0) if turned_a else _turned(b, b.x(0))
    first, second = b.op("MatMul", scaled, right), b.op("MatMul", left, scaled)
    slopes = [
        _turned(b, first) if turned_a else first,
        _turned(b, second) if turned_b else second,
    ]
    c = b.given(2)
    if c is not None:
        slopes.append(b.onto(b.mul(slope, b.number(b.attribute("beta", 1.0))), c))
    return slopes


def _conv(b: Back) -> Slopes:
    """Convolution of known size without groups.

    ``dX`` is the transposed convolution of the slope. ``dW`` is the convolution of x and the
    slope with batch and channels exchanged, strides as dilations and dilations as strides.
    """
    x, weight, slope = b.x(0), b.x(1), b.slope
    size, kernel, out = (b.static(v)[2:] for v in (x, weight, slope))
    if b.attribute("group", 1) != 1 or b.attribute("auto_pad", "NOTSET") != "NOTSET":
        raise b.refuse("with groups or auto_pad")
    ones = [1] * len(kernel)
    strides, dilations = b.attribute("strides", ones), b.attribute("dilations", ones)
    pads = list(b.attribute("pads", [0] * 2 * len(kernel)))
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    steps = list(zip(size, kernel, out, strides, dilations, begins, ends, strict=True))
    left = [n + lo + hi - (o - 1) * s - (k - 1) * d - 1 for n, k, o, s, d, lo, hi in steps]
    first = b.op(
        "ConvTranspose", slope, weight, strides=strides, dilations=dilations, pads=pads,
        output_padding=left,
    )  # fmt: skip
    crop = [hi - rest for hi, rest in zip(ends, left, strict=True)]
    wide = b.op("Pad", x, np.array([0, 0, *begins, 0, 0, *crop], np.int64))
    swap = (1, 0, *range(2, 2 + len(kernel)))
    second = b.op(
        "Conv", b.t.transpose(wide, *swap), b.t.transpose(slope, *swap),
        strides=dilations, dilations=strides,
    )  # fmt: skip
    slopes = [first, b.t.transpose(second, *swap)]
    if b.given(2) is not None:
        axes = np.array([0, *range(2, 2 + len(kernel))], np.int64)
        slopes.append(b.op("ReduceSum", slope, axes, keepdims=0))
    return slopes


# -- reductions ------------------------------------------------------------------------------------


def _axes(b: Back) -> ir.Value | None:
    """Return the axes of a reduction; ``None`` for none at all."""
    axes = b.given(1)
    if axes is None and b.attribute("noop_with_empty_axes", 0):
        return None
    if axes is None:
        rank = b.t.rank(b.x())
        return b.op("Constant", value=ir.Tensor(np.arange(rank, dtype=np.int64)))
    return axes


def _spread(b: Back, value: ir.Value) -> ir.Value:
    """Bring a reduced value back to the rank of the input."""
    axes = _axes(b)
    if axes is None or b.attribute("keepdims", 1) or b.t.rank(b.x()) == 0:
        return value
    return b.op("Unsqueeze", value, axes)


def _full(b: Back, value: ir.Value) -> ir.Value:
    return b.op("Expand", value, b.t.shape(b.x()))


def _reduce_sum(b: Back) -> Slopes:
    return [_full(b, _spread(b, b.slope))]


def _reduce_mean(b: Back) -> Slopes:
    elements = b.op("Div", b.op("Size", b.x()), b.op("Size", b.y))
    part = b.op("Div", b.slope, b.t.cast(elements, b.t.dtype(b.y)))
    return [_full(b, _spread(b, part))]


def _reduce_square(b: Back) -> Slopes:
    return [b.mul(_spread(b, b.slope), b.mul(b.x(), b.number(2.0)))]


def _reduce_l1(b: Back) -> Slopes:
    return [b.mul(_spread(b, b.slope), b.op("Sign", b.x()))]


def _reduce_l2(b: Back) -> Slopes:
    """``x / |x|``, and 0 where all is 0."""
    empty = b.op("Equal", b.y, b.number(0.0))
    part = b.op("Div", b.slope, b.op("Where", empty, b.number(1.0), b.y))
    return [b.mul(_spread(b, part), b.x())]


def _reduce_log_sum_exp(b: Back) -> Slopes:
    share = b.op("Exp", b.op("Sub", b.x(), _spread(b, b.y)))
    return [b.mul(_spread(b, b.slope), share)]


def _reduce_extreme(b: Back) -> Slopes:
    """Equal ones share the slope."""
    hit = b.t.cast(b.op("Equal", b.x(), _spread(b, b.y)), b.t.dtype(b.y))
    axes = _axes(b)
    count = hit if axes is None else b.op("ReduceSum", hit, axes)
    return [b.mul(_spread(b, b.slope), b.op("Div", hit, count))]


def _sum_along(b: Back, value: ir.Value) -> ir.Value:
    return b.op("ReduceSum", value, np.array([b.attribute("axis", -1)], np.int64))


def _softmax(b: Back) -> Slopes:
    """``y (g - sum(g y))``."""
    weighted = _sum_along(b, b.mul(b.slope, b.y))
    return [b.mul(b.y, b.op("Sub", b.slope, weighted))]


def _log_softmax(b: Back) -> Slopes:
    """``g - softmax(x) sum(g)``."""
    return [b.op("Sub", b.slope, b.mul(b.op("Exp", b.y), _sum_along(b, b.slope)))]


PRODUCTS: dict[str, Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ReduceSum": _reduce_sum,
    "ReduceMean": _reduce_mean,
    "ReduceSumSquare": _reduce_square,
    "ReduceL1": _reduce_l1,
    "ReduceL2": _reduce_l2,
    "ReduceLogSumExp": _reduce_log_sum_exp,
    "ReduceMax": _reduce_extreme,
    "ReduceMin": _reduce_extreme,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
}

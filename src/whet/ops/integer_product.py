"""Products of 8-bit integers: MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv.

``sum (x - p)(w - q) = sum x w - p sum w - q sum x + K p q``, in 32 bits that wrap. The sums of
products are of unsigned ``x`` and signed ``w``, as CPUs multiply them: other operands are shifted
by 128 together with their zero points. Outside of an image stands ``p``, so that all of this holds
at its edges too.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES
from whet.errors import UnsupportedError
from whet.index import Poly, as_poly, product, var
from whet.kernel.expr import Call, Const, Expr, Guard, Var
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.ops.build import binary, cast, const, reinterpret
from whet.ops.casts import converted
from whet.ops.conv import convolution
from whet.ops.matmul import matrices
from whet.ops.node import Node, Op, constant
from whet.ops.operand import number, operand
from whet.ops.quantize import is_zero, quantised
from whet.ops.windows import channels_last

HALF_RANGE = 128
ZERO, ONE = const(0, "int32"), const(1, "int32")
SUM = Var(ACCUMULATOR, "int32")
INTEGERS = ("int8", "uint8")

Place = Callable[[Tensor], Expr]
"""Reads a scale or zero point at a point of the product."""


class Points(msgspec.Struct, frozen=True):
    """The zero points of both operands at a point of the product, as 32-bit integers."""

    x: Expr
    w: Expr


def point_of(zero: Tensor | None, at: Place, shift: int) -> Expr:
    """Return a zero point, moved together with its operand."""
    if is_zero(zero):
        return const(shift, "int32")
    assert zero is not None, "an absent zero point is 0"
    if zero.value is not None:
        moved = zero.value.astype(np.int32) + shift
        return at(constant(f"{zero.name}.moved", moved))
    value = cast(at(zero), "int32")
    return binary("add", value, shift) if shift else value


def integer_sum(
    node: Node, definition: Definition, points: Points, bias: Expr | None = None
) -> Definition:
    """Return the exact sum of products of a definition whose operands are 8-bit integers."""
    anchor = definition.anchor
    total: Expr = SUM if bias is None else binary("add", SUM, bias)
    if isinstance(anchor, Steps):
        return replace(definition, body=total, anchor=_direct(anchor, points))
    assert isinstance(anchor, Product)
    a, b = _unsigned(anchor.a, points.x), _signed(anchor.b)
    anchor = replace(anchor, a=a, b=b)
    if points.x != ZERO:
        # The sums of constant weights are constant, whatever the point is that a run finds.
        factor = points.x if isinstance(points.x, Const) else ONE
        shift = _scaled_sum(node, "columns", b, anchor, factor)
        total = binary("sub", total, binary("mul", shift, points.x) if factor == ONE else shift)
    if points.w != ZERO:
        rows = _scaled_sum(node, "rows", a, anchor, ONE)
        count = number(product(t.extent for t in anchor.taps) * anchor.depth.extent, "int32")
        spare = binary("sub", binary("mul", points.x, count), rows)
        total = binary("add", total, binary("mul", spare, points.w))
    return replace(definition, body=total, anchor=anchor)


def _scaled_sum(node: Node, name: str, operand_: Expr, anchor: Product, factor: Expr) -> Expr:
    """Return the sum of an operand along what a product reduces, times a factor.

    It is a tensor of its own, over the other axes of the operand.
    """
    outer = tuple(a for a in (*anchor.rows, anchor.col) if operand_.depends_on(a))
    step = Step("total", "sum", (*anchor.taps, anchor.depth), cast(operand_, "int32"), "int32")
    total: Expr = Var("total", "int32")
    body = total if factor == ONE else binary("mul", total, factor)
    shape = tuple(a.extent for a in outer)
    tensor = node.temporary(name, shape, "int32", Definition(outer, body, Steps((step,))))
    tensor.order = tuple(range(len(shape)))
    return tensor.at(*(var(a) for a in outer))


def _direct(anchor: Steps, points: Points) -> Steps:
    """Return the sum of a depthwise convolution, where there is little to share."""
    (step,) = anchor.steps
    assert isinstance(step.body, Call)
    a, b = step.body.args

    def less(value: Expr, point: Expr) -> Expr:
        if isinstance(value, Guard):
            return Guard(value.conditions, less(value.then, point), ZERO, "int32")
        wide = cast(value, "int32")
        return wide if point == ZERO else binary("sub", wide, point)

    body = binary("mul", less(a, points.x), less(b, points.w))
    return Steps((replace(step, body=body, dtype="int32"),))


def _unsigned(a: Expr, point: Expr) -> Expr:
    """Return the first operand as unsigned integers, the zero point where it has no elements."""
    if isinstance(a, Guard):
        fill = const(int(point.value), "uint8") if isinstance(point, Const) else None
        outside = fill or cast(point, "uint8")
        return Guard(a.conditions, _unsigned(a.then, point), outside, "uint8")
    return a if a.dtype == "uint8" else reinterpret(binary("xor", a, -HALF_RANGE), "uint8")


def _signed(b: Expr) -> Expr:
    return b if b.dtype == "int8" else reinterpret(binary("xor", b, HALF_RANGE), "int8")


# -- operators -------------------------------------------------------------------------------------


def _factor(node: Node, x: Place, w: Place, y: Place) -> Expr:
    """Return what a sum of products is multiplied by: ``s_x * s_w / s_y`` in single precision.

    It is one constant where all scales are, of which that of the weights may differ by channel.
    """
    scales = (node.input(1), node.input(4), node.input(6))
    values = [s.value.astype(np.float32) for s in scales if s.value is not None]
    if len(values) == len(scales) and values[0].size == values[2].size == 1:
        with np.errstate(all="ignore"):
            factor = values[0].reshape(()) * values[1] / values[2].reshape(())
        return w(constant(f"{node.name}.factor", factor))
    single = [cast(at(s), "float32") for at, s in zip((x, w, y), scales, strict=True)]
    return binary("div", binary("mul", single[0], single[1]), single[2])


def requantised(total: Expr, factor: Expr, zero: Expr, dtype: str) -> Expr:
    """Return a 32-bit sum in the scale of the result: ``saturate(round(sum * factor) + zero)``.

    The product is taken in single precision, as ONNX Runtime takes it; ties go to even.
    """
    scaled = binary("mul", cast(total, "float32"), factor)
    return quantised(scaled, zero, dtype, saturate=True)


def _at_point(definition: Definition, dimension: int) -> Place:
    """Return how parameters are read: vectors along one dimension of the result, others aligned."""
    position = definition.position

    def read(parameter: Tensor) -> Expr:
        if parameter.value is not None and parameter.value.size == 1:
            return const(parameter.value.reshape(-1)[0].item(), parameter.dtype)
        if parameter.rank == 0 or parameter.size == 1:
            return operand(parameter, ()) if parameter.rank == 0 else _only(parameter)
        if parameter.rank == 1:
            return parameter.at(position[dimension])
        places = position[len(position) - parameter.rank :]
        pairs = zip(parameter.shape, places, strict=True)
        return parameter.at(*(as_poly(0) if e == 1 else p for e, p in pairs))

    return read


def _only(parameter: Tensor) -> Expr:
    return parameter.at(*(0 for _ in range(parameter.rank)))


def _points(
    x: Tensor,
    w: Tensor,
    zeros: tuple[Tensor | None, Tensor | None],
    at: tuple[Place, Place],
    *,
    shifts: bool,
) -> Points:
    """Return the zero points of two operands as they become unsigned and signed."""
    first = HALF_RANGE if shifts and x.dtype == "int8" else 0
    second = -HALF_RANGE if shifts and w.dtype == "uint8" else 0
    return Points(point_of(zeros[0], at[0], first), point_of(zeros[1], at[1], second))


def _check_integers(node: Node, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype not in INTEGERS:
            raise UnsupportedError(f"{node.op} of {tensor.dtype}", where=node.name)


def _conv_sum(
    node: Node, w_input: int, zeros: tuple[int, int], bias: int
) -> tuple[tuple[Poly, ...], Definition]:
    """Return the exact sums of a convolution; the arguments are positions of inputs."""
    x, w = node.input(0), node.input(w_input)
    _check_integers(node, x, w)
    shape, definition = convolution(node, x, w)
    at = _at_point(definition, 1)
    given = (node.optional(zeros[0]), node.optional(zeros[1]))
    dense = isinstance(definition.anchor, Product)
    points = _points(x, w, given, (at, at), shifts=dense)
    addend = node.optional(bias) if bias else None
    return shape, integer_sum(node, definition, points, None if addend is None else at(addend))


def _conv_integer(node: Node) -> list[Tensor]:
    shape, definition = _conv_sum(node, 1, (2, 3), 0)
    return [node.define(shape, "int32", definition, order=channels_last(len(shape)))]


def _qlinear_conv(node: Node) -> list[Tensor]:
    shape, definition = _conv_sum(node, 3, (2, 5), 8)
    at = _at_point(definition, 1)
    zero = node.input(7)
    body = requantised(definition.body, _factor(node, at, at, at), at(zero), zero.dtype)
    final = replace(definition, body=body)
    return [node.define(shape, zero.dtype, final, order=channels_last(len(shape)))]


def _matmul_integer(node: Node) -> list[Tensor]:
    a, b = node.input(0), node.input(1)
    _check_integers(node, a, b)
    product_ = matrices(node, a, b)
    rows, cols = (_at_point(product_.definition, k) for k in (-2, -1))
    given = (node.optional(2), node.optional(3))
    points = _points(a, b, given, (rows, cols), shifts=True)
    definition = integer_sum(node, product_.definition, points)
    return product_.outputs(node, definition, "int32")


def _qlinear_matmul(node: Node) -> list[Tensor]:
    a, b, zero = node.input(0), node.input(3), node.input(7)
    product_ = matrices(node, a, b)
    definition = product_.definition
    rows, cols = (_at_point(definition, k) for k in (-2, -1))
    factor = _factor(node, rows, cols, rows)
    given = (node.optional(2), node.optional(5))
    if DTYPES[a.dtype].small is not None and DTYPES[b.dtype].small is not None:
        definition = _small_float_product(node, definition, given, factor, zero)
    else:
        _check_integers(node, a, b, zero)
        points = _points(a, b, given, (rows, cols), shifts=True)
        definition = integer_sum(node, definition, points)
        body = requantised(definition.body, factor, rows(zero), zero.dtype)
        definition = replace(definition, body=body)
    return product_.outputs(node, definition, zero.dtype)


def _small_float_product(
    node: Node,
    definition: Definition,
    zeros: tuple[Tensor | None, Tensor | None],
    factor: Expr,
    y_zero: Tensor,
) -> Definition:
    """Return the product of small floats, summed in single precision; zero points must be 0."""
    if not all(is_zero(z) for z in (*zeros, y_zero)):
        raise UnsupportedError(f"{node.op} of small floats with zero points", where=node.name)
    anchor = definition.anchor
    assert isinstance(anchor, Product)
    single = replace(anchor, a=cast(anchor.a, "float32"), b=cast(anchor.b, "float32"))
    scaled = binary("mul", Var(ACCUMULATOR, "float32"), factor)
    return replace(definition, body=converted(scaled, y_zero.dtype), anchor=single)


OPS: tuple[Op, ...] = (
    Op("MatMulInteger", _matmul_integer),
    Op("ConvInteger", _conv_integer),
    Op("QLinearMatMul", _qlinear_matmul),
    Op("QLinearConv", _qlinear_conv),
)

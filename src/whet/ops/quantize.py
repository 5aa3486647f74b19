"""Linear quantisation: QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear."""

from __future__ import annotations

import numpy as np

from whet.dtypes import DTYPES
from whet.index import Axis, var
from whet.kernel.expr import Call, Const, Expr, Var
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, const, select, unary
from whet.ops.casts import converted
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.operand import agree, attribute_flag, operand
from whet.ops.pointwise import element_type

FLOATS = ("float16", "bfloat16", "float32", "float64")
UINT8_STEPS = 255
WORD_BYTES = 2
FAR = float(1 << 20)
"""Beyond every step that a zero point of 16 bits can bring back."""


def is_zero(tensor: Tensor | None) -> bool:
    """Whether a zero point is absent or a constant 0."""
    return tensor is None or (
        tensor.value is not None and not np.any(tensor.value.astype(np.float32))
    )


def _is_one(scale: Tensor) -> bool:
    return scale.value is not None and bool(np.all(scale.value == 1))


def saturated(value: Expr, dtype: str) -> Expr:
    """Return whole numbers as integers of a type, the nearest one where they do not fit."""
    low, high = DTYPES[dtype].limits
    return cast(binary("max", binary("min", value, high), low), dtype)


def _parameter(node: Node, given: Tensor, axes: tuple[Axis, ...]) -> Expr:
    """Return the scale or zero point of the element at a point of the first input's axes.

    One for the whole tensor, one for each position along ``axis``, or one for each block of
    ``block_size`` elements along it.
    """
    x = node.input(0)
    if given.value is not None and given.value.size == 1 and given.rank <= 1:
        return const(given.value.reshape(-1)[0].item(), given.dtype)
    if given.rank == 0 or (given.rank == 1 and given.shape[0] == 1):
        return operand(given, ()) if given.rank == 0 or given.value is not None else given.at(0)
    axis = normalise_axis(node, int(node.attribute("axis", 1)), x.rank)
    block = int(node.attribute("block_size", 0))
    if not block:
        agree(node, given.shape, (x.shape[axis],), f"scale or zero point along axis {axis}")
        return given.at(var(axes[axis]))
    wanted = tuple(-(-e // block) if k == axis else e for k, e in enumerate(x.shape))
    if block < 0:
        raise node.error(f"block_size is {block}")
    agree(node, given.shape, wanted, f"one parameter for each {block} elements along axis {axis}")
    return given.at(*(var(a) // block if k == axis else var(a) for k, a in enumerate(axes)))


def _quotient(x: Expr, scale: Expr, precision: str | None) -> Expr:
    """Return ``x / scale`` rounded as a division of their types, or in the given precision."""
    kinds = {x.dtype, scale.dtype}
    kind = precision or (x.dtype if len(kinds) == 1 else "float32")
    if not DTYPES[kind].is_float or (precision is None and "int32" in kinds):
        kind = "float64"
    wide = "float64" if kind == "float64" else "float32"
    a, b = (cast(cast(v, kind), wide) for v in (x, scale))
    return cast(cast(binary("div", a, b), kind), wide)


def quantised(value: Expr, zero: Expr | None, dtype: str, *, saturate: bool) -> Expr:
    """Return a quotient as an element of a quantised type; ``zero`` is its zero point.

    ``y = saturate(round(value) + zero)``, ties to even; small floats are rounded by their own
    step instead. NaN becomes the least integer of up to 16 bits that ``float32`` is rounded to.
    """
    d = DTYPES[dtype]
    if d.kind in "iu" and value.dtype == "float32" and d.size <= WORD_BYTES:
        return _nearest_step(value, zero, dtype)
    if d.kind in "iu":
        whole = unary("round", value)
        moved = whole if zero is None else binary("add", whole, cast(zero, value.dtype))
        return saturated(moved, dtype)
    moved = value if zero is None else binary("add", value, cast(zero, value.dtype))
    return converted(moved, dtype, saturate=saturate)


def _nearest_step(value: Expr, zero: Expr | None, dtype: str) -> Expr:
    """Return the nearest step, clamped before it is rounded: a known zero point costs one add."""
    low, high = DTYPES[dtype].limits
    if zero is not None and not isinstance(zero, Const):
        near = binary("min", binary("max", value, -FAR), FAR)
        return saturated(
            binary("add", unary_to("nearest", near, "int32"), cast(zero, "int32")), dtype
        )
    point = 0 if zero is None else int(zero.value)
    # A maximum that takes the bound where the value is NaN is one instruction, in this order.
    floor = float(low - point)
    above = select(compare("gt", value, floor), value, const(floor, value.dtype))
    ceiling = float(high - point)
    inside = select(compare("lt", above, ceiling), above, const(ceiling, value.dtype))
    whole = unary_to("nearest", inside, "int32")
    return cast(binary("add", whole, point) if point else whole, dtype)


def unary_to(op: str, x: Expr, dtype: str) -> Expr:
    """Apply a one-operand operation that changes the element type."""
    return Call(op, (x,), dtype)


def _quantize(node: Node) -> list[Tensor]:
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    code = int(node.attribute("output_dtype", 0))
    dtype = element_type(node, code) if code else "uint8"
    if zero is not None:
        if code and zero.dtype != dtype:
            raise node.error(f"output_dtype is {dtype}, the zero point's type {zero.dtype}")
        dtype = zero.dtype
    chosen = int(node.attribute("precision", 0))
    precision = element_type(node, chosen) if chosen else None
    saturate = attribute_flag(node, "saturate", 1)

    def body(*axes: Axis) -> Expr:
        value = operand(x, axes)
        unscaled = precision is None and x.dtype == scale.dtype and _is_one(scale)
        quotient = (
            value
            if unscaled and x.dtype in ("float32", "float64")
            else _quotient(value, _parameter(node, scale, axes), precision)
        )
        moves = zero is not None and not is_zero(zero)
        point = _parameter(node, zero, axes) if zero is not None and moves else None
        return quantised(quotient, point, dtype, saturate=saturate)

    return [node.pointwise(x.shape, dtype, body)]


def _dequantize(node: Node) -> list[Tensor]:
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    code = int(node.attribute("output_dtype", 0))
    dtype = element_type(node, code) if code else scale.dtype
    if dtype not in FLOATS:
        raise node.error(f"the result cannot be {dtype}", hint="give output_dtype a float type")

    def body(*axes: Axis) -> Expr:
        value = operand(x, axes)
        if zero is not None and not is_zero(zero):
            wide = "int32" if DTYPES[x.dtype].kind in "iu" else "float32"
            point = cast(_parameter(node, zero, axes), wide)
            value = binary("sub", cast(value, wide), point)
        factor = cast(_parameter(node, scale, axes), "float32")
        return cast(binary("mul", cast(value, "float32"), factor), dtype)

    return [node.pointwise(x.shape, dtype, body)]


def _extreme(node: Node, op: str) -> Tensor:
    """Return the least or greatest of all elements and 0, by rows first, which threads share."""
    x = node.input(0)
    if x.rank > 1:
        rows = axes_for(x.shape[:-1])
        across = Axis("r", x.shape[-1])
        step = Step("total", op, (across,), x.at(*(var(a) for a in (*rows, across))), x.dtype)
        row = Definition(rows, Var("total", x.dtype), Steps((step,)))
        x = node.temporary(f"{op}.rows", x.shape[:-1], x.dtype, row)
    along = axes_for(x.shape, "r")
    step = Step("total", op, along, x.at(*(var(a) for a in along)), x.dtype)
    body = binary(op, Var("total", x.dtype), 0.0)
    definition = Definition((), body, Steps((step,)))
    return node.temporary(op, (), x.dtype, definition)


def _dynamic_quantize(node: Node) -> list[Tensor]:
    """Lower ``DynamicQuantizeLinear``; the range always holds 0, and is 1 where all are 0."""
    x = node.input(0)
    low, high = _extreme(node, "min"), _extreme(node, "max")

    def scale_body() -> Expr:
        span = binary("sub", high.at(), low.at())
        some = select(compare("eq", span, 0.0), const(1.0, x.dtype), span)
        return binary("div", some, float(UINT8_STEPS))

    scale = node.pointwise((), x.dtype, scale_body, output=1)

    def zero_body() -> Expr:
        place = binary("sub", const(0.0, x.dtype), binary("div", low.at(), scale.at()))
        return cast(unary("round", _within_steps(place)), "uint8")

    zero = node.pointwise((), "uint8", zero_body, output=2)

    def body(*axes: Axis) -> Expr:
        quotient = binary("div", operand(x, axes), scale.at())
        return quantised(quotient, zero.at(), "uint8", saturate=True)

    return [node.pointwise(x.shape, "uint8", body), scale, zero]


def _within_steps(value: Expr) -> Expr:
    return binary("max", binary("min", value, float(UINT8_STEPS)), 0.0)


OPS: tuple[Op, ...] = (
    Op("QuantizeLinear", _quantize),
    Op("DequantizeLinear", _dequantize),
    Op("DynamicQuantizeLinear", _dynamic_quantize),
)

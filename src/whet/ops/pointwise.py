"""Operators that work element by element: arithmetic, comparison, logic, Where."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from whet.dtypes import DTYPES
from whet.errors import UnsupportedError
from whet.index import ONE, ZERO, Axis
from whet.kernel.expr import Const, Expr
from whet.kernel.tensor import Tensor
from whet.ops.broadcast import broadcast
from whet.ops.build import binary, cast, compare, const, inverse, select, unary
from whet.ops.node import Lower, Node, Op
from whet.ops.operand import agree, attribute_flag, operand, scalar_constant

TENSOR_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
    21: "uint4", 22: "int4", 23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
    27: "float6_e2m3fn", 28: "float6_e3m2fn",
}  # fmt: skip


def element_type(node: Node, code: int) -> str:
    """Return the element type of an ONNX type code.

    Raises:
        UnsupportedError: it is not an element type that can be computed with.
    """
    name = TENSOR_TYPES.get(int(code))
    if name is None:
        raise UnsupportedError(f"{node.op} to ONNX type {code}", where=node.name)
    return name


def mapped(node: Node, body: Callable[..., Expr], dtype: str | None = None) -> list[Tensor]:
    """Return ``body`` of the elements of all inputs, broadcast; by default of the first's type."""
    inputs = [t for t in node.inputs if t is not None]
    met = broadcast(node, inputs)

    def point(*axes: Axis) -> Expr:
        return body(*(met.operand(t, n, axes) for n, t in enumerate(inputs)))

    return [node.pointwise(met.shape, dtype or inputs[0].dtype, point)]


def unary_op(op: str) -> Lower:
    """Return the lowering of a one-operand operation."""
    return lambda node: mapped(node, partial(unary, op))


def binary_op(op: str) -> Lower:
    """Return the lowering of a two-operand operation."""
    return lambda node: mapped(node, partial(binary, op))


def comparison(op: str) -> Lower:
    """Return the lowering of a comparison."""
    return lambda node: mapped(node, partial(compare, op), "bool")


def _folded(op: str, *values: Expr) -> Expr:
    total = values[0]
    for value in values[1:]:
        total = binary(op, total, value)
    return total


def variadic(op: str) -> Lower:
    """Return the lowering of an operation on any number of operands."""
    return lambda node: mapped(node, partial(_folded, op))


def _mean(node: Node) -> list[Tensor]:
    count = len(node.inputs)

    def body(*values: Expr) -> Expr:
        total = _folded("add", *values)
        return binary("div", total, count) if count > 1 else total

    return mapped(node, body)


def _sign(x: Expr) -> Expr:
    """Return the sign; NaN stays NaN."""
    positive = select(compare("gt", x, 0), const(1, x.dtype), x)
    if DTYPES[x.dtype].kind == "u":
        return positive
    return select(compare("lt", x, 0), const(-1, x.dtype), positive)


def _is_nan(x: Expr) -> Expr:
    return compare("ne", x, x)


def _is_inf(node: Node) -> list[Tensor]:
    positive = attribute_flag(node, "detect_positive", 1)
    negative = attribute_flag(node, "detect_negative", 1)

    def body(x: Expr) -> Expr:
        if positive and negative:
            return compare("eq", unary("abs", x), np.inf)
        if positive or negative:
            return compare("eq", x, np.inf if positive else -np.inf)
        return Const(False, "bool")

    return mapped(node, body, "bool")


def _modulo(node: Node) -> list[Tensor]:
    return mapped(node, partial(binary, "rem" if attribute_flag(node, "fmod") else "mod"))


def _shift(node: Node) -> list[Tensor]:
    if node.attribute("direction") == "LEFT":
        return mapped(node, partial(binary, "shl"))
    if DTYPES[node.input(0).dtype].kind == "u":
        return mapped(node, partial(binary, "shr"))
    return mapped(node, _shift_signed)


def _shift_signed(x: Expr, count: Expr) -> Expr:
    """Shift right with copies of the sign: ``~(~x >> n)`` for negative ``x``."""
    inverted = unary("not", binary("shr", unary("not", x), count))
    return select(compare("lt", x, 0), inverted, binary("shr", x, count))


def _where(node: Node) -> list[Tensor]:
    return mapped(node, select, node.input(1).dtype)


def _clip(node: Node) -> list[Tensor]:
    x = node.input(0)
    low, high = node.optional(1), node.optional(2)
    for bound in (low, high):
        if bound is not None:
            agree(node, (bound.size,), (ONE,), "a bound")

    def body(*axes: object) -> Expr:
        value = operand(x, axes)  # type: ignore[arg-type]
        if low is not None:
            value = binary("max", value, _scalar(low))
        if high is not None:
            value = binary("min", value, _scalar(high))
        return value

    return [node.pointwise(x.shape, x.dtype, body)]


def _scalar(tensor: Tensor) -> Expr:
    fixed = scalar_constant(tensor)
    at = tensor.at(*(ZERO for _ in tensor.shape))
    return at if fixed is None else Const(fixed, tensor.dtype)


# -- powers ----------------------------------------------------------------------------------------


def _pow(node: Node) -> list[Tensor]:
    base, exponent = node.input(0), node.input(1)
    fixed = scalar_constant(exponent)
    simple = None if fixed is None else _SIMPLE_POWERS.get(float(fixed))
    is_float = DTYPES[base.dtype].is_float
    if simple is not None and (is_float or fixed in (1, 2, 3, 4)):
        return mapped(node, lambda x, _: simple(x))
    if is_float:
        return mapped(node, lambda x, y: binary("pow", x, cast(y, x.dtype)))
    if DTYPES[exponent.dtype].is_float:
        return mapped(node, _power_through_double)
    return mapped(node, _integer_power)


def _square(x: Expr) -> Expr:
    return binary("mul", x, x)


_SIMPLE_POWERS: dict[float, Callable[[Expr], Expr]] = {
    -1.0: inverse,
    0.5: lambda x: unary("sqrt", x),
    1.0: lambda x: x,
    2.0: _square,
    3.0: lambda x: binary("mul", _square(x), x),
    4.0: lambda x: _square(_square(x)),
}


def _power_through_double(x: Expr, y: Expr) -> Expr:
    return cast(binary("pow", cast(x, "float64"), cast(y, "float64")), x.dtype)


def _integer_power(x: Expr, y: Expr) -> Expr:
    """Multiply by repeated squares: ``x^y = prod over bits k of y of x^(2^k)``, wrapping."""
    result: Expr = const(1, x.dtype)
    square = x
    for bit in range(6):
        is_set = compare("ne", binary("and", y, 1 << bit), 0)
        result = select(is_set, binary("mul", result, square), result)
        square = binary("mul", square, square)
    return result


def _plain(body: Callable[..., Expr], dtype: str | None = None) -> Lower:
    return lambda node: mapped(node, body, dtype)


_UNARY = {
    "Abs": "abs", "Neg": "neg", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Erf": "erf",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Not": "not", "BitwiseNot": "not",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan",
    "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Tanh": "tanh", "Sigmoid": "sigmoid",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div",
    "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip
_COMPARISONS = {
    "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
}  # fmt: skip
_VARIADIC = {"Min": "min", "Max": "max", "Sum": "add"}

OPS: tuple[Op, ...] = (
    *(Op(name, unary_op(op)) for name, op in _UNARY.items()),
    *(Op(name, binary_op(op)) for name, op in _BINARY.items()),
    *(Op(name, comparison(op)) for name, op in _COMPARISONS.items()),
    *(Op(name, variadic(op)) for name, op in _VARIADIC.items()),
    Op("Mean", _mean),
    Op("Sign", _plain(_sign)),
    Op("Reciprocal", _plain(inverse)),
    Op("IsNaN", _plain(_is_nan, "bool")),
    Op("IsInf", _is_inf),
    Op("Mod", _modulo),
    Op("BitShift", _shift),
    Op("Where", _where),
    Op("Clip", _clip),
    Op("Pow", _pow),
)

"""Conversions between element types: Cast, CastLike and BitCast."""

from __future__ import annotations

from whet.dtypes import DTYPES
from whet.kernel.expr import Expr
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, compare, const, reinterpret, select
from whet.ops.node import Node, Op
from whet.ops.operand import attribute_flag, operand
from whet.ops.pointwise import element_type, mapped

ROUND_MODES = ("up", "down", "nearest")
FRACTION_BITS = 23
LAST_EXPONENT = 254
NO_NUMBER = 255


def converted(x: Expr, dtype: str, *, saturate: bool = True, round_mode: str = "up") -> Expr:
    """Return a value as ONNX casts it.

    Floats that an integer type does not hold saturate, and NaN becomes 0: ONNX leaves both open.
    Integers of less than a byte wrap instead, as in ONNX's own cases.

    Args:
        x: the value.
        dtype: the type to convert to.
        saturate: whether what a small float does not hold becomes its largest value.
        round_mode: how powers of two are rounded: ``up``, ``down`` or ``nearest``, ties up.
    """
    form = DTYPES[dtype].small
    if form is None or x.dtype == dtype:
        return cast(x, dtype)
    if form.special == "power":
        return _power_of_two(cast(x, "float32"), saturate, round_mode)
    if not saturate:
        return cast(x, dtype)
    wide = x if DTYPES[x.dtype].is_float else cast(x, "float32")
    return cast(binary("max", binary("min", wide, form.maximum), -form.maximum), dtype)


def _power_of_two(x: Expr, saturate: bool, round_mode: str) -> Expr:
    """Return the exponent of a ``float``, rounded; infinities and NaN become NaN, signs vanish."""
    bits = reinterpret(x, "uint32")
    exponent = binary("and", binary("shr", bits, FRACTION_BITS), NO_NUMBER)
    most = LAST_EXPONENT if saturate else NO_NUMBER
    grown = binary("min", binary("add", exponent, 1), most)
    rounded = exponent
    if round_mode == "up":
        fraction = binary("and", bits, (1 << FRACTION_BITS) - 1)
        rounded = select(compare("ne", fraction, 0), grown, exponent)
    elif round_mode == "nearest":
        half = 1 << (FRACTION_BITS - 1)
        fraction = binary("and", bits, 2 * half - 1)
        tie = select(compare("eq", exponent, 0), const(half + 1, "uint32"), const(half, "uint32"))
        rounded = select(compare("ge", fraction, tie), grown, exponent)
    special = compare("eq", exponent, NO_NUMBER)
    code = select(special, const(NO_NUMBER, "uint32"), rounded)
    return reinterpret(cast(code, "uint8"), "float8_e8m0fnu")


def _convert(node: Node, dtype: str) -> list[Tensor]:
    mode = node.attribute("round_mode", "up")
    if mode not in ROUND_MODES:
        raise node.error(f"round_mode {mode!r} is not one of {', '.join(ROUND_MODES)}")
    saturate = attribute_flag(node, "saturate", 1)
    x = node.input(0)

    def body(*axes: object) -> Expr:
        value = operand(x, axes)  # type: ignore[arg-type]
        return converted(value, dtype, saturate=saturate, round_mode=mode)

    return [node.pointwise(x.shape, dtype, body)]


def _cast(node: Node) -> list[Tensor]:
    return _convert(node, element_type(node, node.attribute("to")))


def _cast_like(node: Node) -> list[Tensor]:
    return _convert(node, node.input(1).dtype)


def _bit_cast(node: Node) -> list[Tensor]:
    source, target = node.input(0).dtype, element_type(node, node.attribute("to"))
    if _width(source) != _width(target):
        raise node.error(
            f"{source} has {_width(source)} bits and {target} {_width(target)}",
            hint="BitCast keeps the number of bits",
        )
    return mapped(node, lambda x: reinterpret(x, target), target)


def _width(dtype: str) -> int:
    """Return the bits of an element; a bool counts as the byte it lies in."""
    return 8 if dtype == "bool" else DTYPES[dtype].bits


OPS: tuple[Op, ...] = (Op("Cast", _cast), Op("CastLike", _cast_like), Op("BitCast", _bit_cast))

"""Requantisation without detours: what known ranges of values make needless.

The body of a product of 8-bit integers is a chain of casts, clamps and roundings. A sum lies in 32
bits and scales are constants, so that most values have bounds:

    cast(cast(x, uint8), int32) = x             where 0 <= x <= 255
    (x + c) - c = x                             32-bit integers wrap
    cast(round(clamp(x, -z, 255 - z)) + z, uint8) = saturate(round(x) + z)     where |x| < 2**31

``saturate`` is a clamp of integers that vector units do as they narrow. A product that is added
just before it is rounded to a step becomes a fused multiply-add, which rounds once less; the zero
point of a byte among the terms is taken off by another one. A product that is rounded and then
changed becomes a ``round_product``: two instructions, of which the second one is shared with what
follows.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import BYTES, DTYPES
from whet.index import product
from whet.kernel.expr import Call, Const, Expr, Load, Var, rewrite_places
from whet.kernel.spec import ACCUMULATOR, BYTES_OF_DOT
from whet.kernel.tensor import Product
from whet.lower.equations import Equations

MOST_CONSTANTS = 1 << 16
"""Elements of a constant whose range is looked up."""

ROOM = float((1 << 31) - (1 << 10))
"""Floats below this become 32-bit integers, with room for a zero point."""

MOST_ROUNDED = float(1 << 21)
"""Products below this are rounded by adding ``1.5 * 2**23``, with room to spare."""

SINGLE_BYTES = 4
UNSIGNED, SIGNED = 255, 128
"""The largest absolute values of a sum's factors."""
RELATIVE_ERROR = 1e-6
"""More than rounding in single precision adds to a bound."""


class Range(msgspec.Struct, frozen=True):
    """Bounds of a value that is never NaN."""

    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        """Whether the value lies between two numbers."""
        return low <= self.low and self.high <= high


def saturate_steps(equations: Equations) -> None:
    """Shorten what is done with the sums of every product of 8-bit integers, in place."""
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is None or not isinstance(definition.anchor, Product):
            continue
        if (definition.anchor.a.dtype, definition.anchor.b.dtype) == ("uint8", "int8"):
            sums = _sums_range(definition.anchor)
            tensor.definition = replace(definition, body=shortened(definition.body, sums))


def _sums_range(anchor: Product) -> Range | None:
    """Return the bounds of sums of unsigned times signed bytes, if their number is known."""
    count = product(a.extent for a in (*anchor.taps, anchor.depth)).constant
    if count is None:
        return None
    together = 1 if anchor.dot is None else BYTES_OF_DOT
    largest = float(count * together * UNSIGNED * SIGNED)
    return Range(-largest, largest)


def shortened(expr: Expr, sums: Range | None = None) -> Expr:
    """Return an equal expression without the detours.

    Args:
        expr: what is done with a sum.
        sums: bounds of the sum.
    """
    through = _through_byte(expr, sums)
    if through is not None:
        return shortened(through, sums)
    if isinstance(expr, Load):
        return rewrite_places(expr, lambda e: shortened(e, sums))
    inner = _without_shift(expr.map(lambda e: shortened(e, sums)))
    return _saturated(_rounded_once(inner, sums), sums)


def bounds(expr: Expr, sums: Range | None = None) -> Range | None:
    """Return bounds of an expression, ``None`` if they are not known or it may be NaN."""
    if sums is not None and expr == Var(ACCUMULATOR, "int32"):
        return sums
    if isinstance(expr, Const):
        value = float(expr.value)
        return Range(value, value) if math.isfinite(value) else None
    if isinstance(expr, Load) and expr.source.value is not None:
        return _constant_range(expr.source.value)
    found = _call_bounds(expr, sums) if isinstance(expr, Call) else None
    if DTYPES[expr.dtype].kind not in "iu":
        return found
    low, high = (float(n) for n in DTYPES[expr.dtype].limits)
    return found if found is not None and found.within(low, high) else Range(low, high)


def _constant_range(value: np.ndarray) -> Range | None:
    if not 0 < value.size <= MOST_CONSTANTS:
        return None
    low, high = float(np.min(value)), float(np.max(value))
    return Range(low, high) if math.isfinite(low) and math.isfinite(high) else None


def _call_bounds(expr: Call, sums: Range | None) -> Range | None:
    clamp = _clamp(expr)
    if clamp is not None:
        inner, pick = bounds(clamp.value, sums), min if clamp.above else max
        if inner is None:
            return None
        return Range(pick(inner.low, clamp.bound), pick(inner.high, clamp.bound))
    if expr.op not in ("cast", "nearest", "add", "sub", "mul", "round_product"):
        return None
    known = [a for a in (bounds(a, sums) for a in expr.args) if a is not None]
    return _result_bounds(expr, known) if len(known) == len(expr.args) else None


def _result_bounds(expr: Call, args: list[Range]) -> Range | None:
    """Return the bounds of an operation on values with bounds."""
    if expr.op == "round_product":
        exact = _combined("mul", args[0], args[1])
        return Range(math.floor(exact.low), math.ceil(exact.high))
    if expr.op == "nearest":
        return Range(math.floor(args[0].low), math.ceil(args[0].high))
    if expr.op != "cast":
        return _rounded(_combined(expr.op, args[0], args[1]), expr)
    kind = DTYPES[expr.dtype]
    return None if kind.is_float and kind.size < SINGLE_BYTES else _rounded(args[0], expr)


def _combined(op: str, a: Range, b: Range) -> Range:
    if op == "add":
        return Range(a.low + b.low, a.high + b.high)
    if op == "sub":
        return Range(a.low - b.high, a.high - b.low)
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(ends), max(ends))


def _rounded(exact: Range, expr: Expr) -> Range | None:
    """Return the bounds of a result as its type rounds it."""
    if not DTYPES[expr.dtype].is_float:
        return exact if expr.dtype != "bool" else None
    largest = float(np.finfo(np.float32).max)
    spare = RELATIVE_ERROR * max(abs(exact.low), abs(exact.high))
    wide = Range(exact.low - spare, exact.high + spare)
    return wide if wide.within(-largest, largest) else None


class _Clamp(msgspec.Struct, frozen=True):
    """``min(value, bound)`` if it clamps from above, else ``max(value, bound)``."""

    value: Expr
    bound: float
    above: bool


def _clamp(expr: Expr) -> _Clamp | None:
    """Return a clamp by a constant that gives the constant where the value is NaN."""
    if not isinstance(expr, Call) or expr.op != "select":
        return None
    test, value, bound = expr.args
    if not isinstance(bound, Const) or not isinstance(test, Call) or test.op not in ("lt", "gt"):
        return None
    same = test.args == (value, bound)
    return _Clamp(value, float(bound.value), test.op == "lt") if same else None


def _through_byte(expr: Expr, sums: Range | None) -> Expr | None:
    """Return ``x`` widened where ``x`` becomes a byte and wide again, and fits it."""
    if not isinstance(expr, Call) or expr.op != "cast" or DTYPES[expr.dtype].kind not in "iu":
        return None
    byte = expr.args[0]
    if isinstance(byte, Const):
        return Const(int(byte.value), expr.dtype) if _fits(byte, expr.dtype, sums) else None
    if not isinstance(byte, Call) or byte.op != "cast" or byte.dtype not in BYTES:
        return None
    inner = byte.args[0]
    if inner.dtype != expr.dtype or not _fits(inner, byte.dtype, sums):
        return None
    return inner


def _fits(expr: Expr, dtype: str, sums: Range | None) -> bool:
    low, high = DTYPES[dtype].limits
    found = bounds(expr, sums)
    return found is not None and found.within(low, high)


def _without_shift(expr: Expr) -> Expr:
    """Return ``x`` for ``(x + c) - c`` of integers."""
    if not isinstance(expr, Call) or expr.op != "sub" or DTYPES[expr.dtype].kind not in "iu":
        return expr
    total, away = expr.args
    if isinstance(total, Call) and total.op == "add" and total.args[1] == away:
        return total.args[0]
    return expr


def _rounded_once(expr: Expr, sums: Range | None) -> Expr:
    """Return a product that is clamped between whole numbers and rounded, as one rounded first."""
    if not isinstance(expr, Call) or (expr.op, expr.dtype) != ("cast", "float32"):
        return expr
    nearest = expr.args[0]
    if not isinstance(nearest, Call) or (nearest.op, nearest.dtype) != ("nearest", "int32"):
        return expr
    value, clamps = nearest.args[0], list[_Clamp]()
    while (clamp := _clamp(value)) is not None:
        clamps.insert(0, clamp)
        value = clamp.value
    if not _is_rounded(value, sums) or not all(c.bound.is_integer() for c in clamps):
        return expr
    result: Expr = Call("round_product", value.children(), "float32")
    for clamp in clamps:
        limit = Const(clamp.bound, "float32")
        test = Call("lt" if clamp.above else "gt", (result, limit), "bool")
        result = Call("select", (test, result, limit), "float32")
    return result


def _is_rounded(value: Expr, sums: Range | None) -> bool:
    """Whether a value is a product in single precision that is small enough for a shortcut."""
    if not isinstance(value, Call) or (value.op, value.dtype) != ("mul", "float32"):
        return False
    found = bounds(value, sums)
    return found is not None and found.within(-MOST_ROUNDED, MOST_ROUNDED)


def _saturated(expr: Expr, sums: Range | None) -> Expr:
    """Return a clamp, a rounding and a cast to a byte as ``saturate``."""
    if not isinstance(expr, Call) or expr.op != "cast" or expr.dtype not in BYTES:
        return expr
    nearest, point = _zero_point(expr.args[0])
    if not isinstance(nearest, Call) or nearest.op != "nearest" or nearest.dtype != "int32":
        return expr
    low, high = DTYPES[expr.dtype].limits
    value = _unclamped(nearest.args[0], low - point, high - point)
    found = bounds(value, sums)
    if value is nearest.args[0] or found is None or not found.within(-ROOM, ROOM):
        return expr
    steps: Expr = replace(nearest, args=(_fused(value),))
    if point and _is_rounded(value, sums):
        steps = Call("round_product", value.children(), "int32")
    if point:
        steps = Call("add", (steps, Const(point, "int32")), "int32")
    return Call("saturate", (steps,), expr.dtype)


def _zero_point(whole: Expr) -> tuple[Expr, int]:
    """Return ``x`` and ``z`` of ``x + z``; ``z`` is 0 where nothing is added."""
    if isinstance(whole, Call) and whole.op == "add" and isinstance(whole.args[1], Const):
        return whole.args[0], int(whole.args[1].value)
    return whole, 0


def _unclamped(value: Expr, low: float, high: float) -> Expr:
    """Return a value without clamps that saturation between two numbers repeats."""
    clamp = _clamp(value)
    while clamp is not None and (clamp.bound >= high if clamp.above else clamp.bound <= low):
        value = clamp.value
        clamp = _clamp(value)
    return value


def _without_point(term: Expr) -> tuple[Expr, Const, Const] | None:
    """Return ``x``, ``s`` and ``-z * s`` of ``(x - z) * s``, where ``x`` is a byte."""
    if not isinstance(term, Call) or term.op != "mul":
        return None
    wide, scale = term.args
    moved = wide.args[0] if isinstance(wide, Call) and wide.op == "cast" else None
    if not isinstance(moved, Call) or (moved.op, moved.dtype) != ("sub", "int32"):
        return None
    byte, point = moved.args
    widened = isinstance(byte, Call) and byte.op == "cast" and byte.args[0].dtype in BYTES
    if not widened or not isinstance(point, Const) or not isinstance(scale, Const):
        return None
    away = np.float32(-int(point.value)) * np.float32(scale.value)
    return Call("cast", (byte,), "float32"), scale, Const(float(away), "float32")


def _fused(value: Expr) -> Expr:
    """Return ``a * b + c`` in single precision as one fused multiply-add."""
    if not isinstance(value, Call) or value.op != "add" or value.dtype != "float32":
        return value
    orders = (value.args, value.args[::-1])
    for term, other in orders:
        moved = _without_point(term)
        if moved is not None and isinstance(other, Call) and other.op == "mul":
            steps, scale, away = moved
            rest = Call("fma", (*other.args, away), value.dtype)
            return Call("fma", (steps, scale, rest), value.dtype)
    for term, other in orders:
        if isinstance(term, Call) and term.op == "mul":
            return Call("fma", (*term.args, other), value.dtype)
    return value

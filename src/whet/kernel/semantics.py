"""What every operation of a ``Call`` means, on NumPy arrays: the definition that kernels follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from whet.dtypes import BITS_PER_BYTE, DTYPES, DType, numpy_dtype
from whet.kernel.philox import random_bits

Array = np.ndarray[Any, np.dtype[Any]]
Operation = Callable[..., Array]

SMALL = "V"
"""NumPy's kind of the types that ml_dtypes adds."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def register_dtype(dtype: str, *, precise: bool = False) -> np.dtype[Any]:
    """Return the NumPy type in which values of an element type are computed."""
    d = DTYPES[dtype]
    if d.is_float:
        return np.dtype(np.float64 if precise or d.size == 8 else np.float32)
    if d.is_packed:
        return np.dtype(np.int8 if d.kind == "i" else np.uint8)
    return numpy_dtype(dtype)


def convert(x: Array, target: str, *, precise: bool = False) -> Array:
    """Convert values to an element type.

    Floats saturate when they become integers; those of less than a byte then wrap, as all do that
    come from wider integers.
    """
    goal = DTYPES[target]
    register = register_dtype(target, precise=precise)
    if x.dtype.kind == SMALL:
        x = x.astype(np.float32)
    if goal.kind == "b":
        return np.not_equal(x, 0)
    if goal.is_float:
        if goal.size == 2 and not precise:
            x = x.astype(numpy_dtype(target))
        return x.astype(register)
    if goal.small is not None:
        return x.astype(register)
    if x.dtype.kind == "f":
        x = _saturate(x, DTYPES["int32"] if goal.is_packed else goal)
    return _low_bits(x.astype(register), goal)


def saturate(x: Array, target: str) -> Array:
    """Return integers as those of a smaller type, the nearest one where they do not fit."""
    least, most = DTYPES[target].limits
    return np.clip(x, least, most).astype(numpy_dtype(target))


def reinterpret(x: Array, source: str, target: str, *, precise: bool = False) -> Array:
    """Return the values of another type of the same width that have the same bits."""
    stored = x.astype(numpy_dtype(source)).view(numpy_dtype(target))
    return _low_bits(stored.astype(register_dtype(target, precise=precise)), DTYPES[target])


def _low_bits(x: Array, dtype: DType) -> Array:
    """Return integers of less than a byte without what stands in the rest of their bytes."""
    if not dtype.is_packed:
        return x
    spare = BITS_PER_BYTE - dtype.bits
    return np.right_shift(np.left_shift(x, spare), spare)


def _saturate(x: Array, dtype: DType) -> Array:
    (least, most), goal = dtype.limits, dtype.name
    whole = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0))
    low, high = whole <= float(least), whole >= float(most)
    result = np.where(low | high, 0.0, whole).astype(goal)
    return np.where(low, least, np.where(high, most, result)).astype(goal)


def identity_of(op: str, dtype: str) -> float | int | bool:
    """Return the neutral element of a reduction."""
    d = DTYPES[dtype]
    if op in ("sum", "prod"):
        return int(op == "prod")
    if d.kind == "b":
        return op == "min"
    if d.is_float:
        return -math.inf if op == "max" else math.inf
    least, most = d.limits
    return least if op == "max" else most


REDUCTIONS: MappingProxyType[str, np.ufunc] = MappingProxyType(
    {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
)


def _nonzero(d: Array) -> Array:
    return np.where(d == 0, np.ones_like(d), d)


def _divide(a: Array, d: Array) -> Array:
    """Divide; integers truncate, and a zero divisor of integers gives 0."""
    if a.dtype.kind == "f":
        return np.asarray(a / d)
    safe = _nonzero(d)
    quotient, rest = a // safe, a % safe
    upwards = (rest != 0) & ((rest < 0) != (a < 0))
    return np.where(d == 0, 0, quotient + upwards)


def _remainder(a: Array, d: Array) -> Array:
    if a.dtype.kind == "f":
        return np.fmod(a, d)
    return np.where(d == 0, 0, np.fmod(a, _nonzero(d)))


def _floor_modulo(a: Array, d: Array) -> Array:
    if a.dtype.kind == "f":
        return np.mod(a, d)
    return np.where(d == 0, 0, np.mod(a, _nonzero(d)))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


def _shift(shift: np.ufunc) -> Operation:
    def shifted(a: Array, count: Array) -> Array:
        bits = a.dtype.itemsize * 8
        inside = (count >= 0) & (count < bits)
        return np.where(inside, shift(a, np.where(inside, count, 0).astype(a.dtype)), 0)

    return shifted


def _shift_right(a: Array, count: Array) -> Array:
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return _shift(np.right_shift)(a.view(unsigned), count).astype(unsigned).view(a.dtype)


SEMANTICS: MappingProxyType[str, Operation] = MappingProxyType(
    {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": _divide,
        "rem": _remainder,
        "fmod": _remainder,
        "mod": _floor_modulo,
        "max": np.maximum,
        "min": np.minimum,
        "neg": np.negative,
        "abs": np.abs,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "not": np.invert,
        "shl": _shift(np.left_shift),
        "shr": _shift_right,
        "select": np.where,
        "fma": lambda a, b, c: a * b + c,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
        "exp": np.exp,
        "exp_nonpositive": np.exp,
        "exp2": np.exp2,
        "expm1": np.expm1,
        "log": np.log,
        "log2": np.log2,
        "log1p": np.log1p,
        "erf": _erf,
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "silu": lambda x: x * _sigmoid(x),
        "softplus": lambda x: np.logaddexp(x, np.zeros_like(x)),
        "gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
        "gelu_tanh": _gelu_tanh,
        "sin": np.sin,
        "cos": np.cos,
        "tan": np.tan,
        "asin": np.arcsin,
        "acos": np.arccos,
        "atan": np.arctan,
        "sinh": np.sinh,
        "cosh": np.cosh,
        "asinh": np.arcsinh,
        "acosh": np.arccosh,
        "atanh": np.arctanh,
        "pow": np.power,
        "sqrt": np.sqrt,
        "floor": np.floor,
        "ceil": np.ceil,
        "round": np.round,
        "nearest": lambda x: np.rint(x).astype(np.int32),
        "round_product": lambda x, y: np.rint(np.multiply(x, y, dtype=np.float64)),
        "trunc": np.trunc,
        "sign": np.sign,
        "random_bits": random_bits,
    }
)

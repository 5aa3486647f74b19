"""Keys of a sort as integers that are ordered as the keys are."""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, const, lanes, vector
from whet.dtypes import DTYPES


def ordinal(b: Builder, value: Value, dtype: str, *, descending: bool) -> Value:
    """Return a signed integer that is smaller the earlier a key comes.

    Floats compare like their bits if those of negative ones are inverted. NaN becomes the largest
    key, -0.0 the same as 0.0.
    """
    found = _integer(b, value, dtype)
    return b.binary("xor", found, const(found.type, -1)) if descending else found


def _integer(b: Builder, value: Value, dtype: str) -> Value:
    kind = DTYPES[dtype].kind
    if kind == "f":
        return _of_float(b, value)
    if kind == "b":
        return b.cast("zext", value, vector("i8", lanes(value.type)))
    if kind == "u":
        sign = -(1 << (8 * DTYPES[dtype].size - 1))
        return b.binary("xor", value, const(value.type, sign))
    return value


def _of_float(b: Builder, value: Value) -> Value:
    size = 64 if "double" in value.type else 32
    type_ = vector(f"i{size}", lanes(value.type))
    positive_zero = b.binary("fadd", value, const(value.type, 0.0))
    bits = b.cast("bitcast", positive_zero, type_)
    negative = b.binary("ashr", bits, const(type_, size - 1))
    inverted = b.binary("xor", bits, b.binary("lshr", negative, const(type_, 1)))
    largest = const(type_, (1 << (size - 1)) - 1)
    return b.select(b.fcmp("uno", value, value), largest, inverted)

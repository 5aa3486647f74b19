"""Element types in registers and in memory, and how values change from one to another."""

from __future__ import annotations

import numpy as np

from whet.codegen.writing.builder import F32, F64, I1, Builder, Value, const, element, lanes, vector
from whet.codegen.writing.small_floats import decode, encode
from whet.dtypes import BITS_PER_BYTE, DTYPES, DType, numpy_dtype

UPPER = 16
"""Bits of a float that bfloat16 leaves out."""

QUIET = 1 << 22
"""The bit of a float that keeps NaN a NaN when the lower half is cut off."""

_INTEGER_BITS = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}


def register_type(dtype: str) -> str:
    """Return the LLVM type in which values of an element type are computed, or moved as bits."""
    d = DTYPES[dtype]
    if d.kind == "b":
        return I1
    if d.is_float:
        return F64 if d.size == 8 else F32
    return _INTEGER_BITS[d.size]


def storage_type(dtype: str) -> str:
    """Return the LLVM type in which values of an element type lie in memory.

    bfloat16 lies there as an integer: where a CPU has no instructions for it, LLVM would call a
    library for every masked load of ``bfloat``.
    """
    d = DTYPES[dtype]
    if d.kind == "b":
        return "i8"
    if dtype == "float16":
        return "half"
    if dtype == "bfloat16":
        return "i16"
    return register_type(dtype)


def from_storage(b: Builder, value: Value, dtype: str) -> Value:
    """Convert a loaded value to its register type."""
    count = lanes(value.type)
    if dtype == "bool":
        return b.icmp("ne", value, const(value.type, 0))
    if dtype == "float16":
        return b.cast("fpext", value, vector(F32, count))
    if dtype == "bfloat16":
        wide = b.cast("zext", value, vector("i32", count))
        moved = b.binary("shl", wide, const(wide.type, UPPER))
        result = b.cast("bitcast", moved, vector(F32, count))
        b.narrow[result.text] = value
        return result
    return _low_bits(b, value, DTYPES[dtype])


def to_storage(b: Builder, value: Value, dtype: str) -> Value:
    """Convert a register value to the type in which it is stored."""
    count = lanes(value.type)
    if dtype == "bool":
        return b.cast("zext", value, vector("i8", count))
    if dtype in ("float16", "bfloat16"):
        if element(value.type) == F64:
            value = _round_to_odd(b, value)
        if dtype == "bfloat16":
            return _upper_half(b, value)
        return b.cast("fptrunc", value, vector("half", count))
    if DTYPES[dtype].is_packed:
        return b.binary("and", value, const(value.type, (1 << DTYPES[dtype].bits) - 1))
    return value


def _upper_half(b: Builder, value: Value) -> Value:
    """Round floats to the bits of bfloat16, ties to even; those that came from there have them.

    AVX512-BF16's instruction makes subnormal numbers 0, and copies would change them: it is for
    what is computed.
    """
    known = b.narrow.get(value.text)
    if known is not None and lanes(known.type) == lanes(value.type):
        return known
    count = lanes(value.type)
    if b.flushes:
        rounded = b.cast("fptrunc", value, vector("bfloat", count))
        return b.cast("bitcast", rounded, vector("i16", count))
    bits = b.cast("bitcast", value, vector("i32", count))
    last = b.binary("lshr", bits, const(bits.type, UPPER))
    odd = b.binary("and", last, const(bits.type, 1))
    half = const(bits.type, (1 << (UPPER - 1)) - 1)
    rounded = b.binary("add", b.binary("add", bits, half), odd)
    quiet = b.binary("or", bits, const(bits.type, QUIET))
    chosen = b.select(b.fcmp("uno", value, value), quiet, rounded)
    return b.cast("trunc", b.binary("lshr", chosen, const(bits.type, UPPER)), vector("i16", count))


def _low_bits(b: Builder, value: Value, dtype: DType) -> Value:
    """Return an integer of less than a byte without what stands in the rest of its byte."""
    if not dtype.is_packed:
        return value
    spare = const(value.type, BITS_PER_BYTE - dtype.bits)
    shifted = b.binary("shl", value, spare)
    return b.binary("ashr" if dtype.kind == "i" else "lshr", shifted, spare)


def literal(dtype: str, number: float | int | bool) -> Value:
    """Return a number as a register holds it."""
    if DTYPES[dtype].small is None:
        return const(register_type(dtype), number)
    with np.errstate(all="ignore"):
        code = np.asarray(number, np.float32).astype(numpy_dtype(dtype)).view(np.uint8)
    return const(register_type(dtype), int(code))


def _round_to_odd(b: Builder, value: Value) -> Value:
    """Round doubles to floats so that rounding those again rounds as if it happened once.

    An inexact result gets its last bit set: of the two floats around the double, the odd one.
    No CPU here narrows doubles to halves in one instruction.
    """
    count = lanes(value.type)
    near = b.cast("fptrunc", value, vector(F32, count))
    back = b.cast("fpext", near, value.type)
    bits = b.cast("bitcast", near, vector("i32", count))
    even = b.icmp("eq", b.binary("and", bits, const(bits.type, 1)), const(bits.type, 0))
    adjust = b.binary("and", even, b.fcmp("one", back, value))
    away, size = (b.call_intrinsic("llvm.fabs", value.type, v) for v in (back, value))
    step = b.select(b.fcmp("ogt", away, size), const(bits.type, -1), const(bits.type, 1))
    moved = b.select(adjust, b.binary("add", bits, step), bits)
    return b.cast("bitcast", moved, near.type)


def convert(b: Builder, value: Value, source: str, target: str) -> Value:
    """Convert between element types.

    Floats saturate when they become integers; those of less than a byte then wrap, as all do that
    come from wider integers.
    """
    s, t = DTYPES[source], DTYPES[target]
    if source == target:
        return value
    if s.small is not None:
        return convert(b, decode(b, value, s.small), "float32", target)
    if t.small is not None:
        return encode(b, _to_single(b, value, s), t.small)
    if t.kind == "b":
        return _to_bool(b, value, s)
    goal = vector(register_type(target), lanes(value.type))
    if s.is_float:
        return _convert_float(b, value, t, goal)
    return _convert_integer(b, value, s, t, goal)


def _to_single(b: Builder, value: Value, source: DType) -> Value:
    """Return a number as ``float``, so that rounding that to a smaller type rounds only once."""
    if source.is_float:
        return _round_to_odd(b, value) if element(value.type) == F64 else value
    return convert(b, value, source.name, "float32")


def _to_bool(b: Builder, value: Value, source: DType) -> Value:
    if source.kind == "b":
        return value
    zero = const(value.type, 0)
    return b.fcmp("une", value, zero) if source.is_float else b.icmp("ne", value, zero)


def _convert_integer(b: Builder, value: Value, source: DType, target: DType, goal: str) -> Value:
    """Convert an integer or boolean, whose register is narrower than any integer's."""
    signed = source.kind == "i"
    if target.is_float:
        number = b.cast("sitofp" if signed else "uitofp", value, goal)
        return from_storage(b, to_storage(b, number, target.name), target.name)
    if target.size < source.size:
        return _low_bits(b, b.cast("trunc", value, goal), target)
    return _low_bits(b, b.cast("sext" if signed else "zext", value, goal), target)


def _convert_float(b: Builder, value: Value, target: DType, goal: str) -> Value:
    if target.size == 2 and target.is_float:
        return from_storage(b, to_storage(b, value, target.name), target.name)
    if target.is_float:
        return b.cast("fpext" if element(goal) == F64 else "fptrunc", value, goal)
    if target.is_packed:
        whole = _float_to_int(b, value, vector("i32", lanes(goal)), signed=True)
        return _low_bits(b, b.cast("trunc", whole, goal), target)
    return _float_to_int(b, value, goal, signed=target.kind == "i")


def _float_to_int(b: Builder, value: Value, goal: str, *, signed: bool) -> Value:
    name = "llvm.fptosi.sat" if signed else "llvm.fptoui.sat"
    count, bits = lanes(goal), element(goal)
    if count > 1 and bits in ("i8", "i16"):
        return _float_to_few_bits(b, value, goal, signed=signed)
    left = f"v{count}{bits}" if count > 1 else bits
    kind = "f64" if element(value.type) == F64 else "f32"
    right = f"v{count}{kind}" if count > 1 else kind
    return b.call(f"{name}.{left}.{right}", goal, value)


def _float_to_few_bits(b: Builder, value: Value, goal: str, *, signed: bool) -> Value:
    """Convert vectors through 32-bit integers; LLVM would take vectors of bytes apart."""
    bits = 8 if element(goal) == "i8" else 16
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    wide = _float_to_int(b, value, vector("i32", lanes(goal)), signed=True)
    most = b.call_intrinsic("llvm.smin", wide.type, wide, const(wide.type, high))
    least = b.call_intrinsic("llvm.smax", wide.type, most, const(wide.type, low))
    return b.cast("trunc", least, goal)


def reinterpret(b: Builder, value: Value, source: str, target: str) -> Value:
    """Return the value of another type of the same width that has the same bits."""
    goal = vector(storage_type(target), lanes(value.type))
    return from_storage(b, b.cast("bitcast", to_storage(b, value, source), goal), target)


def saturated(b: Builder, value: Value, dtype: str) -> Value:
    """Return 32-bit integers as those of a smaller type, the nearest one where they do not fit."""
    least, most = DTYPES[dtype].limits
    inside = b.max(b.min(value, const(value.type, most)), const(value.type, least))
    return b.cast("trunc", inside, vector(register_type(dtype), lanes(value.type)))

"""Operations on register values: how each ``Call`` of an expression becomes instructions."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from whet.codegen.builder import F32, F64, I1, Builder, Value, const, element, lanes, vector
from whet.codegen.philox import random_bits
from whet.codegen.small_floats import decode, encode
from whet.codegen.vmath import FUNCTIONS
from whet.dtypes import BITS_PER_BYTE, DTYPES, DType, numpy_dtype
from whet.errors import CompileError

UPPER = 16
"""Bits of a float that bfloat16 leaves out."""

QUIET = 1 << 22
"""The bit of a float that keeps NaN a NaN when the lower half is cut off."""

SHIFT, SHIFT_BITS = 1.5 * 2**23, 0x4B400000
"""A float next to which floats are whole numbers, and its bits."""

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

    AVX512-BF16's instruction would make subnormal numbers 0, and copies would change them.
    """
    known = b.narrow.get(value.text)
    if known is not None and lanes(known.type) == lanes(value.type):
        return known
    count = lanes(value.type)
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


def combine(b: Builder, op: str, a: Value, c: Value, dtype: str) -> Value:
    """Combine two partial results of a reduction."""
    name = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[op]
    return apply(b, name, [a, c], [dtype, dtype], dtype)


_NAN = re.compile(r"0x[7fF][fF][fF]8|0x[7fF]FF[0-9A-F]*[1-9A-F]")

Emit = Callable[[Builder, list[Value], str], Value]


def _arithmetic(float_op: str, signed_op: str, unsigned_op: str | None = None) -> Emit:
    def emit(b: Builder, args: list[Value], dtype: str) -> Value:
        kind = DTYPES[dtype].kind
        integer = unsigned_op if kind == "u" and unsigned_op else signed_op
        return b.binary(float_op if kind == "f" else integer, args[0], args[1])

    return emit


def _extreme(b: Builder, args: list[Value], dtype: str, *, largest: bool) -> Value:
    kind = DTYPES[dtype].kind
    a, c = args
    if kind == "b":
        return b.binary("or" if largest else "and", a, c)
    if kind != "f":
        prefix = "llvm.u" if kind == "u" else "llvm.s"
        return b.call_intrinsic(prefix + ("max" if largest else "min"), a.type, a, c)
    # x86's MAXPS returns its second operand when either is NaN, so that a number goes first.
    if _is_number(c):
        a, c = c, a
    picked = b.select(b.fcmp("ogt" if largest else "olt", a, c), a, c)
    return picked if _is_number(a) else b.select(b.fcmp("uno", a, a), a, picked)


def _is_number(value: Value) -> bool:
    """Whether a float is a constant that is no NaN."""
    text = value.text.removeprefix("splat (").removesuffix(")").split()[-1]
    return text.startswith("0x") and not _NAN.match(text)


def _maximum(b: Builder, args: list[Value], dtype: str) -> Value:
    return _extreme(b, args, dtype, largest=True)


def _minimum(b: Builder, args: list[Value], dtype: str) -> Value:
    return _extreme(b, args, dtype, largest=False)


def _divide(b: Builder, args: list[Value], dtype: str) -> Value:
    if DTYPES[dtype].kind == "f":
        return b.binary("fdiv", args[0], args[1])
    return _integer_division(b, args, dtype, "div")


def _integer_division(b: Builder, args: list[Value], dtype: str, word: str) -> Value:
    """Divide integers; a zero divisor gives 0, and nothing traps."""
    a, d = args
    signed = DTYPES[dtype].kind == "i"
    zero, one = const(a.type, 0), const(a.type, 1)
    unsafe = b.icmp("eq", d, zero)
    if signed:
        unsafe = b.binary("or", unsafe, b.icmp("eq", d, const(d.type, -1)))
    quotient = b.binary(("s" if signed else "u") + word, a, b.select(unsafe, one, d))
    if not signed:
        return b.select(unsafe, zero, quotient)
    negated = b.binary("sub", zero, a) if word == "div" else zero
    special = b.select(b.icmp("eq", d, zero), zero, negated)
    return b.select(unsafe, special, quotient)


def _remainder(b: Builder, args: list[Value], dtype: str) -> Value:
    if DTYPES[dtype].kind == "f":
        return FUNCTIONS["fmod"].emit(b, *args)
    return _integer_division(b, args, dtype, "rem")


def _floor_modulo(b: Builder, args: list[Value], dtype: str) -> Value:
    if DTYPES[dtype].kind == "f":
        return FUNCTIONS["mod"].emit(b, *args)
    r = _integer_division(b, args, dtype, "rem")
    if DTYPES[dtype].kind == "u":
        return r
    zero = const(r.type, 0)
    differs = b.icmp("slt", b.binary("xor", r, args[1]), zero)
    wrong = b.binary("and", differs, b.icmp("ne", r, zero))
    return b.select(wrong, b.binary("add", r, args[1]), r)


def _negate(b: Builder, args: list[Value], dtype: str) -> Value:
    if DTYPES[dtype].kind == "f":
        return b.op(f"fneg {args[0]}", args[0].type)
    return b.binary("sub", const(args[0].type, 0), args[0])


def _absolute(b: Builder, args: list[Value], dtype: str) -> Value:
    kind = DTYPES[dtype].kind
    if kind == "f":
        return b.call_intrinsic("llvm.fabs", args[0].type, args[0])
    if kind == "u":
        return args[0]
    return b.select(
        b.icmp("slt", args[0], const(args[0].type, 0)), _negate(b, args, dtype), args[0]
    )


def _logical_not(b: Builder, args: list[Value], dtype: str) -> Value:
    return b.binary("xor", args[0], const(args[0].type, 1 if dtype == "bool" else -1))


def _select(b: Builder, args: list[Value], dtype: str) -> Value:
    return b.select(args[0], args[1], args[2])


def _fma(b: Builder, args: list[Value], dtype: str) -> Value:
    if DTYPES[dtype].is_float:
        return b.fma(*args)
    return b.binary("add", b.binary("mul", args[0], args[1]), args[2])


def _nearest(b: Builder, value: Value) -> Value:
    """Round to a 32-bit integer, ties to even; the caller sees to it that it is in range."""
    count = lanes(value.type)
    suffix = f"v{count}i32.v{count}f32" if count > 1 else "i32.f32"
    return b.call(f"llvm.lrint.{suffix}", vector("i32", count), value)


def _round_product(b: Builder, x: Value, y: Value, dtype: str) -> Value:
    """Round ``x * y``, below 2**22, to a whole number: ``1.5 * 2**23`` leaves no bits behind it.

    The sum holds the number in its lowest bits. Rounded once, and an integer without a conversion.
    """
    shifted = b.fma(x, y, const(x.type, SHIFT))
    if DTYPES[dtype].is_float:
        return b.binary("fsub", shifted, const(x.type, SHIFT))
    bits = b.cast("bitcast", shifted, vector("i32", lanes(x.type)))
    return b.binary("sub", bits, const(bits.type, SHIFT_BITS))


def saturated(b: Builder, value: Value, dtype: str) -> Value:
    """Return 32-bit integers as those of a smaller type, the nearest one where they do not fit."""
    least, most = DTYPES[dtype].limits
    inside = b.max(b.min(value, const(value.type, most)), const(value.type, least))
    return b.cast("trunc", inside, vector(register_type(dtype), lanes(value.type)))


def _shift(left: bool) -> Emit:
    def emit(b: Builder, args: list[Value], dtype: str) -> Value:
        bits = DTYPES[dtype].size * 8
        inside = b.icmp("ult", args[1], const(args[1].type, bits))
        amount = b.select(inside, args[1], const(args[1].type, 0))
        shifted = b.binary("shl" if left else "lshr", args[0], amount)
        return b.select(inside, shifted, const(shifted.type, 0))

    return emit


OPERATIONS: MappingProxyType[str, Emit] = MappingProxyType(
    {
        "add": _arithmetic("fadd", "add"),
        "sub": _arithmetic("fsub", "sub"),
        "mul": _arithmetic("fmul", "mul"),
        "div": _divide,
        "rem": _remainder,
        "mod": _floor_modulo,
        "max": _maximum,
        "min": _minimum,
        "neg": _negate,
        "abs": _absolute,
        "and": _arithmetic("and", "and"),
        "or": _arithmetic("or", "or"),
        "xor": _arithmetic("xor", "xor"),
        "not": _logical_not,
        "shl": _shift(True),
        "shr": _shift(False),
        "select": _select,
        "fma": _fma,
        "saturate": lambda b, args, dtype: saturated(b, args[0], dtype),
        "nearest": lambda b, args, _: _nearest(b, args[0]),
        "round_product": lambda b, args, dtype: _round_product(b, args[0], args[1], dtype),
        "random_bits": lambda b, args, _: random_bits(b, *args),
    }
)


def _reinterpret(b: Builder, value: Value, source: str, target: str) -> Value:
    """Return the value of another type of the same width that has the same bits."""
    goal = vector(storage_type(target), lanes(value.type))
    return from_storage(b, b.cast("bitcast", to_storage(b, value, source), goal), target)


COMPARISONS: MappingProxyType[str, tuple[str, str, str]] = MappingProxyType(
    {
        "lt": ("olt", "slt", "ult"),
        "le": ("ole", "sle", "ule"),
        "gt": ("ogt", "sgt", "ugt"),
        "ge": ("oge", "sge", "uge"),
        "eq": ("oeq", "eq", "eq"),
        "ne": ("une", "ne", "ne"),
    }
)


def apply(b: Builder, op: str, args: list[Value], arg_dtypes: list[str], dtype: str) -> Value:
    """Write the instructions of one ``Call``.

    Raises:
        CompileError: no such operation; the op table and this table disagree.
    """
    if op == "cast":
        return convert(b, args[0], arg_dtypes[0], dtype)
    if op == "bitcast":
        return _reinterpret(b, args[0], arg_dtypes[0], dtype)
    if op in COMPARISONS:
        kind = DTYPES[arg_dtypes[0]].kind
        names = COMPARISONS[op]
        if kind == "f":
            return b.fcmp(names[0], args[0], args[1])
        return b.icmp(names[1] if kind == "i" else names[2], args[0], args[1])
    if op in OPERATIONS:
        return OPERATIONS[op](b, args, dtype)
    if op in FUNCTIONS:
        return FUNCTIONS[op].emit(b, *args)
    raise CompileError(f"no code for operation {op!r}")

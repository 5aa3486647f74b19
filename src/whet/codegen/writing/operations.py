"""Operations on register values: how each ``Call`` of an expression becomes instructions."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType

from whet.codegen.vmath import FUNCTIONS
from whet.codegen.writing.builder import Builder, Value, const, lanes, vector
from whet.codegen.writing.conversions import convert, reinterpret, saturated
from whet.codegen.writing.philox import random_bits
from whet.dtypes import DTYPES
from whet.errors import CompileError

SHIFT, SHIFT_BITS = 1.5 * 2**23, 0x4B400000
"""A float next to which floats are whole numbers, and its bits."""


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
        return reinterpret(b, args[0], arg_dtypes[0], dtype)
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

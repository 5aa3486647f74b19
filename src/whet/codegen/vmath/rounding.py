"""Rounding, remainders, extrema and other functions that are exact."""

from __future__ import annotations

from collections.abc import Callable

from whet.codegen.vmath.primitives import Lanes
from whet.codegen.writing.builder import Builder, Value


def one_instruction(name: str) -> Callable[[Builder, Value], Value]:
    """Return the emitter of an LLVM intrinsic that every target has as an instruction."""

    def emit(b: Builder, x: Value) -> Value:
        return Lanes(b, x.type).call(name, x)

    emit.__name__ = name
    emit.__doc__ = f"Return ``{name}(x)``, exactly rounded."
    return emit


def reciprocal(b: Builder, x: Value) -> Value:
    """Return ``1 / x``, correctly rounded."""
    return Lanes(b, x.type).div(1.0, x)


def rsqrt(b: Builder, x: Value) -> Value:
    """Return ``1 / sqrt(x)``."""
    m = Lanes(b, x.type)
    return m.div(1.0, m.call("sqrt", x))


def sign(b: Builder, x: Value) -> Value:
    """Return -1, 0 or 1; NaN and signed zeros stay as they are."""
    m = Lanes(b, x.type)
    keep = m.test("ueq", x, 0.0)
    return m.pick(keep, x, m.copysign(1.0, x))


def minimum(b: Builder, x: Value, y: Value) -> Value:
    """Return the smaller operand; NaN if either is NaN (the sign of zero is open)."""
    m = Lanes(b, x.type)
    return m.pick(m.test("uno", x, x), x, m.pick(m.test("olt", x, y), x, y))


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """Return the larger operand; NaN if either is NaN (the sign of zero is open)."""
    m = Lanes(b, x.type)
    return m.pick(m.test("uno", x, x), x, m.pick(m.test("ogt", x, y), x, y))


def relu(b: Builder, x: Value) -> Value:
    """Return ``max(x, 0)``, NaN kept, in one instruction on x86."""
    return Lanes(b, x.type).lower(x, 0.0)


def _reduced_exponent(m: Lanes, x: Value) -> Value:
    field = m.integer("lshr", m.bits(x), m.format.fraction)
    return m.b.call_intrinsic("llvm.smax", m.integers, field, m.i(1))


def fmod(b: Builder, x: Value, y: Value) -> Value:
    """Return C's ``fmod``, exact: the remainder of truncated division, with the sign of ``x``.

    While ``r >= |y|``, subtract ``q s``, where ``s = |y| 2^e`` makes ``q = trunc(r / s)`` at most
    ``fraction - 1`` bits long; fma makes the subtraction exact; ``q`` one too large is put right.
    Quotients below ``2^(fraction-2)`` take one round.
    """
    m = Lanes(b, x.type)
    divisor = m.abs(y)
    state = b.alloca(m.type)
    # Infinite or NaN operands and zero divisors do not enter the loop.
    valid = m.both(m.test("olt", m.abs(x), float("inf")), m.test("ogt", divisor, 0.0))
    b.store(m.pick(valid, m.abs(x), 0.0), state)
    again, body, done = b.label("m"), b.label("mb"), b.label("mx")
    b.jump(again)
    b.start(again)
    rest = b.load(m.type, state)
    above = m.test("oge", rest, divisor)
    above = m.both(above, valid)
    b.branch(m.any(above), body, done)
    b.start(body)
    b.store(m.pick(above, _fmod_step(m, rest, divisor), rest), state)
    b.jump(again)
    b.start(done)
    result = m.copysign(rest, x)
    return m.pick(valid, m.pick(m.test("uno", y, y), y, result), float("nan"))


def _fmod_step(m: Lanes, rest: Value, divisor: Value) -> Value:
    gap = m.integer("sub", _reduced_exponent(m, rest), _reduced_exponent(m, divisor))
    gap = m.integer("sub", gap, m.format.fraction - 2)
    gap = m.b.call_intrinsic("llvm.smax", m.integers, gap, m.i(0))
    half = m.integer("lshr", gap, 1)
    bias = m.format.bias
    first = m.power(m.integer("add", half, bias))
    second = m.power(m.integer("add", m.integer("sub", gap, half), bias))
    step = m.mul(m.mul(divisor, first), second)
    quotient = m.call("trunc", m.div(rest, step))
    rest = m.fma(m.neg(quotient), step, rest)
    return m.pick(m.test("olt", rest, 0.0), m.add(rest, step), rest)


def mod(b: Builder, x: Value, y: Value) -> Value:
    """Return the remainder of floored division, with the sign of ``y``, as Python and NumPy do."""
    m = Lanes(b, x.type)
    rest = fmod(b, x, y)
    wrong = b.binary("xor", m.test("olt", rest, 0.0), m.test("olt", y, 0.0))
    nonzero = m.test("one", rest, 0.0)
    moved = m.pick(m.both(wrong, nonzero), m.add(rest, y), rest)
    return m.pick(m.test("oeq", rest, 0.0), m.copysign(0.0, y), moved)

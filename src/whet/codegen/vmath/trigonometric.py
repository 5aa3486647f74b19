"""sin, cos and tan: Cody-Waite reduction, and Payne-Hanek where a lane is large.

The usual path subtracts ``n pi`` (or ``n pi/2``) in three parts with fma (Cody and Waite 1980).
When any lane is beyond 1e5 (f32) or 1e9 (f64), a branch reduces those lanes by fixed-point
multiplication with the bits of ``1/(2 pi)`` (Payne and Hanek 1983, in the byte-stepped form of
Arm's optimized routines).
"""

from __future__ import annotations

import math

import msgspec

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.primitives import Lanes, split
from whet.codegen.writing.builder import I64, Builder, Value, const, lanes, vector

PI = "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899863"
HALF_PI = "1.57079632679489661923132169163975144209858469968755291048747229615390820314310449931"
TAU = 2 * math.pi
TABLE_START = -64


class Turn(msgspec.Struct, frozen=True):
    """How a reduction counts: ``x = (n + offset) period + r``, ``period = 2 pi / 2^unit``."""

    period: str
    unit: int
    offset: float = 0.0


SINE, COSINE, TANGENT = Turn(PI, 1), Turn(PI, 1, 0.5), Turn(HALF_PI, 2)


def _limit(m: Lanes) -> float:
    return 1e5 if m.single else 1e9


def reduce(m: Lanes, x: Value, turn: Turn) -> tuple[Value, Value]:
    """Return ``r`` in ``[-period/2, period/2]`` and an integer whose top bit is ``n mod 2``."""
    magic = m.format.magic
    scale = 1 / float(turn.period)
    if turn.offset:
        raised = m.add(m.fma(x, scale, -turn.offset), magic)
        n = m.add(m.sub(raised, magic), turn.offset)
    else:
        raised = m.fma(x, scale, magic)
        n = m.sub(raised, magic)
    r = x
    for part in split(turn.period, m.format, 3):
        r = m.fma(n, -part, r)
    parity = m.integer("shl", m.bits(raised), m.format.bits - 1)
    return _replace_large(m, x, turn, (r, parity))


def _replace_large(
    m: Lanes, x: Value, turn: Turn, usual: tuple[Value, Value]
) -> tuple[Value, Value]:
    b, a = m.b, m.abs(x)
    large = m.both(m.test("ogt", a, _limit(m)), m.test("olt", a, math.inf))
    slots = b.alloca(m.type), b.alloca(m.integers)
    for slot, value in zip(slots, usual, strict=True):
        b.store(value, slot)
    with b.when(m.any(large)):
        exact = reduce_large(m, x, turn, large)
        for slot, value, other in zip(slots, exact, usual, strict=True):
            b.store(b.select(large, value, other), slot)
    return b.load(m.type, slots[0]), b.load(m.integers, slots[1])


def reduce_large(m: Lanes, x: Value, turn: Turn, mask: Value) -> tuple[Value, Value]:
    """Return ``r`` and the parity for the lanes of a mask, whatever their size.

    ``|x| = M 2^E``; with ``E = 8 j + s`` the fraction of ``x / (2 pi)`` is that of ``M 2^s`` times
    the window of ``1/(2 pi)`` that starts at byte ``j``. Two words of it are kept.
    """
    b, word = m.b, m.format.bits
    wide = vector(f"i{2 * word}", lanes(m.type))
    bits = m.bits(m.abs(x))
    power = m.integer("lshr", bits, m.format.fraction)
    start = m.integer("sub", power, m.format.bias + m.format.fraction + TABLE_START)
    hidden = 1 << m.format.fraction
    mantissa = m.integer("or", m.integer("and", bits, hidden - 1), hidden)
    mantissa = b.cast("zext", m.integer("shl", mantissa, m.integer("and", start, 7)), wide)
    words = [_window(m, m.integer("ashr", start, 3), k, mask) for k in range(3)]
    high, middle, low = (b.binary("mul", mantissa, b.cast("zext", w, wide)) for w in words)
    turns = b.binary("add", b.binary("shl", high, const(wide, word)), middle)
    turns = b.binary("add", turns, b.binary("lshr", low, const(wide, word)))
    if turn.offset:
        turns = b.binary("sub", turns, const(wide, 1 << (2 * word - 2)))
    position = const(wide, 2 * word - turn.unit)
    n = b.binary("add", turns, const(wide, 1 << (2 * word - turn.unit - 1)))
    n = b.binary("lshr", n, position)
    rest = b.binary("sub", turns, b.binary("shl", n, position))
    r = _to_float(m, rest)
    parity = m.integer("shl", b.cast("trunc", n, m.integers), word - 1)
    return _signed(m, x, r, parity, turn)


def _signed(m: Lanes, x: Value, r: Value, parity: Value, turn: Turn) -> tuple[Value, Value]:
    if not turn.offset:
        return m.xor_sign(r, m.bits(x)), parity
    return r, parity


def _to_float(m: Lanes, rest: Value) -> Value:
    """Return a signed two-word fraction of a turn as an angle."""
    b, count, word = m.b, lanes(m.type), m.format.bits
    double = vector("double", count)
    if m.single:
        angle = b.binary("fmul", b.cast("sitofp", rest, double), const(double, TAU * 2.0**-64))
        return b.cast("fptrunc", angle, m.type)
    high = b.cast("trunc", b.binary("ashr", rest, const(rest.type, word)), m.integers)
    low = b.cast("uitofp", b.cast("trunc", rest, m.integers), double)
    return m.mul(m.fma(b.cast("sitofp", high, double), 2.0**64, low), TAU * 2.0**-128)


def _window(m: Lanes, byte: Value, step: int, mask: Value) -> Value:
    """Return one word of ``1/(2 pi)`` per lane."""
    b, count = m.b, lanes(m.type)
    last = (m.format.bias - m.format.fraction - TABLE_START) // 8
    word, inner = m.format.bits, m.format.integer
    values = inverse_turn_words(word, last + 1 + 2 * word // 8)
    table = b.module.constant(
        f"[{len(values)} x {inner}] [{', '.join(f'{inner} {v}' for v in values)}]"
    )
    index = m.integer("add", byte, step * word // 8)
    if m.single:
        index = b.cast("sext", index, vector(I64, count))
    if count == 1:
        index = b.select(mask, index, const(I64, 0))
        return b.load(inner, b.gep(Value(table, "ptr"), inner, index), word // 8)
    pointers = b.op(f"getelementptr {inner}, ptr {table}, {index}", vector("ptr", count))
    return b.gather(m.integers, pointers, mask, m.i(0))


def inverse_turn_words(word: int, count: int) -> list[int]:
    """Return signed words of ``floor(2^(8 j + TABLE_START + word) / (2 pi))`` for ``j`` from 0."""
    precision = 8 * count + word + 64
    inverse = (1 << (2 * precision)) // (2 * _pi(precision))
    words = []
    for j in range(count):
        shift = precision - (8 * j + TABLE_START + word)
        value = (inverse >> shift) & ((1 << word) - 1)
        words.append(value - (1 << word) if value >> (word - 1) else value)
    return words


def _pi(precision: int) -> int:
    """Return ``floor(pi 2^precision)`` (Machin's formula with guard bits)."""
    one = 1 << (precision + 32)

    def arccot(n: int) -> int:
        term, total, k = one // n, 0, 0
        while term:
            total += (-1) ** k * (term // (2 * k + 1))
            term //= n * n
            k += 1
        return total

    return 4 * (4 * arccot(5) - arccot(239)) >> 32


def _sine(m: Lanes, r: Value) -> Value:
    return m.clamp(m.odd(c.SIN_F32 if m.single else c.SIN_F64, r), -1.0, 1.0)


def sin(b: Builder, x: Value) -> Value:
    """Return ``sin x`` for every ``x``; NaN at infinity.

    One odd polynomial on ``[-pi/2, pi/2]``. Max error f32/f64: 1.8 / 2.7 ULP; never beyond 1.
    """
    m = Lanes(b, x.type)
    r, parity = reduce(m, x, SINE)
    return m.xor_sign(_sine(m, r), parity)


def cos(b: Builder, x: Value) -> Value:
    """Return ``cos x`` for every ``x`` as ``-(-1)^n sin(x - (n + 1/2) pi)``; NaN at infinity.

    Max error f32/f64: 1.8 / 2.7 ULP; never beyond 1.
    """
    m = Lanes(b, x.type)
    r, parity = reduce(m, x, COSINE)
    return m.neg(m.xor_sign(_sine(m, r), parity))


def tan(b: Builder, x: Value) -> Value:
    """Return ``tan x`` for every ``x``; NaN at infinity.

    An odd polynomial on ``[-pi/4, pi/4]``, ``-1/t`` in odd quadrants. Max error f32/f64: 2.8 / 3.4
    ULP.
    """
    m = Lanes(b, x.type)
    r, parity = reduce(m, x, TANGENT)
    t = m.odd(c.TAN_F32 if m.single else c.TAN_F64, r)
    odd = m.itest("slt", parity, 0)
    # One division: (odd ? -1 : t) / (odd ? t : 1).
    return m.div(m.pick(odd, -1.0, t), m.pick(odd, t, 1.0))

"""log and its relatives: ``k ln2 + log(z)``, ``z`` in [2/3, 4/3), cut off by integer arithmetic.

Algorithm: Muller, *Elementary Functions*, ch. 11; f32 uses one polynomial in ``z - 1``, f64 the
``s = r / (2 + r)`` series in the form of fdlibm's ``e_log.c``; own minimax coefficients.
"""

from __future__ import annotations

import math

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.primitives import Lanes
from whet.codegen.writing.builder import Builder, Value

LN2 = math.log(2.0)
LOG2E = 1.4426950408889634


def cut(m: Lanes, x: Value) -> tuple[Value, Value]:
    """Return integer ``k`` and ``z`` in [2/3, 4/3), ``x = 2^k z``, for normal positive ``x``."""
    k, masked, bits = _cut_bits(m, x)
    return k, m.from_bits(m.integer("sub", bits, masked))


def _cut_bits(m: Lanes, x: Value) -> tuple[Value, Value, Value]:
    two_thirds = (m.format.bias << m.format.fraction) - (2 << m.format.fraction) // 3
    bits = m.bits(x)
    offset = m.integer("sub", bits, two_thirds)
    exponent = m.integer("and", offset, -1 << m.format.fraction)
    return m.integer("ashr", offset, m.format.fraction), exponent, bits


def normalise(m: Lanes, x: Value) -> tuple[Value, Value]:
    """Return ``x`` with denormals scaled up, and the exponent to add to ``k`` as floats."""
    tiny = m.test("olt", x, 2.0 ** (1 - m.format.bias))
    shift = m.format.fraction + 1
    return m.pick(tiny, m.mul(x, 2.0**shift), x), m.pick(tiny, float(-shift), 0.0)


def special(m: Lanes, x: Value, result: Value) -> Value:
    """Put in what a logarithm returns for NaN, negative numbers, zero and infinity."""
    result = m.pick(m.test("ult", x, 0.0), math.nan, result)
    result = m.pick(m.test("oeq", x, 0.0), -math.inf, result)
    return m.pick(m.test("oeq", x, math.inf), x, result)


def log_near_one(m: Lanes, r: Value) -> Value:
    """Return ``log(1 + r)`` for ``|r| <= 1/3``."""
    if m.single:
        return m.fma(m.mul(r, r), m.horner(c.LOG_F32, r), r)
    s = m.div(r, m.add(r, 2.0))
    z = m.mul(s, s)
    half_square = m.mul(m.mul(r, r), 0.5)
    series = m.mul(z, m.horner(c.LOG_F64, z))
    return m.sub(r, m.fma(m.neg(s), m.add(half_square, series), half_square))


def log(b: Builder, x: Value) -> Value:
    """Return the natural logarithm: -inf at 0, NaN below; denormals count. Max error: 1.2 ULP."""
    m = Lanes(b, x.type)
    scaled, extra = normalise(m, x)
    k, z = cut(m, scaled)
    t = log_near_one(m, m.sub(z, 1.0))
    return special(m, x, m.fma(m.add(m.real(k), extra), LN2, t))


def log2_normal(m: Lanes, x: Value) -> Value:
    """Return the base-2 logarithm of a positive, normal number."""
    k, z = cut(m, x)
    return _log2_near_one(m, m.sub(z, 1.0), m.real(k))


def _log2_near_one(m: Lanes, r: Value, k: Value) -> Value:
    if m.single:
        return m.fma(r, m.horner(c.LOG2_F32, r), k)
    return m.fma(log_near_one(m, r), LOG2E, k)


def log2(b: Builder, x: Value) -> Value:
    """Return the base-2 logarithm; exact at powers of two. Max error f32/f64: 1.9 / 1.5 ULP."""
    m = Lanes(b, x.type)
    scaled, extra = normalise(m, x)
    k, z = cut(m, scaled)
    return special(m, x, _log2_near_one(m, m.sub(z, 1.0), m.add(m.real(k), extra)))


def log1p_lanes(m: Lanes, x: Value) -> Value:
    """Return ``log(1 + x)`` for ``-1 < x < inf`` without the sign of zero.

    With ``u = fl(1 + x)`` and ``c = 1 + x - u`` exactly,
    ``(1 + x) 2^-k - 1 = (u 2^-k - 1) + c 2^-k``: no division.
    """
    u = m.add(x, 1.0)
    lost = m.pick(m.test("ogt", x, 1.0), m.sub(1.0, m.sub(u, x)), m.sub(x, m.sub(u, 1.0)))
    k, exponent, bits = _cut_bits(m, u)
    z = m.from_bits(m.integer("sub", bits, exponent))
    unit = m.from_bits(m.integer("sub", m.format.bias << m.format.fraction, exponent))
    # 2^-k leaves the normal range only where nothing was lost that matters.
    unit = m.pick(m.test("olt", x, 2.0 ** (m.format.fraction + 2)), unit, 0.0)
    return m.fma(m.real(k), LN2, log_near_one(m, m.fma(lost, unit, m.sub(z, 1.0))))


def log1p(b: Builder, x: Value) -> Value:
    """Return ``log(1 + x)``, accurate near 0; -inf at -1, NaN below. Max error: 1.9 / 1.9 ULP."""
    m = Lanes(b, x.type)
    result = m.copysign(log1p_lanes(m, x), x)
    result = m.pick(m.test("ult", x, -1.0), math.nan, result)
    result = m.pick(m.test("oeq", x, -1.0), -math.inf, result)
    return m.pick(m.test("oeq", x, math.inf), x, result)

"""pow with the special cases of C (Annex F), f32 by way of f64, f64 by way of double-double.

Algorithm: the double-double logarithm follows the plan of SLEEF's ``xpow`` (Shibata and Petrogalli
2020) and fdlibm's ``e_pow.c``; products are split exactly with fma; own minimax coefficients.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.exponential import LN2, reduce_natural, scale_twice
from whet.codegen.vmath.logarithm import cut, log2_normal, normalise
from whet.codegen.vmath.primitives import Lanes, split
from whet.codegen.writing.builder import F64, Builder, Value, lanes, vector


class Pair(NamedTuple):
    """An unevaluated sum of two floats, the second below half an ulp of the first."""

    high: Value
    low: Value


def _fast_sum(m: Lanes, x: Value, y: Value) -> Pair:
    total = m.add(x, y)
    return Pair(total, m.sub(y, m.sub(total, x)))


def _product(m: Lanes, x: Pair, y: Pair) -> Pair:
    high = m.mul(x.high, y.high)
    low = m.fma(x.high, y.high, m.neg(high))
    return Pair(high, m.fma(x.high, y.low, m.fma(x.low, y.high, low)))


def _log_pair(m: Lanes, x: Value) -> Pair:
    """Return ``log x`` to about 2^-68.

    ``k ln2 + 2s + 2/3 s^3 + s^5 P(s^2)`` with ``s = (z - 1) / (z + 1)``.
    """
    scaled, extra = normalise(m, x)
    k, z = cut(m, scaled)
    k = m.add(m.real(k), extra)
    top = m.sub(z, 1.0)
    bottom = m.add(z, 1.0)
    lost = m.sub(z, m.sub(bottom, 1.0))
    inverse = m.div(1.0, bottom)
    s = m.mul(top, inverse)
    rest = m.fma(m.neg(s), lost, m.fma(m.neg(s), bottom, top))
    ratio = Pair(s, m.mul(rest, inverse))
    square = _product(m, ratio, ratio)
    cube = _product(m, square, ratio)
    third = split("0.66666666666666666666666666666666666666666666666667", m.format, 2)
    factor = _fast_sum(
        m, m.f(third[0]), m.fma(square.high, m.horner(c.POW_LOG, square.high), third[1])
    )
    tail = _product(m, cube, factor)
    twice = Pair(m.add(ratio.high, ratio.high), m.add(ratio.low, ratio.low))
    near = _fast_sum(m, twice.high, tail.high)
    near_low = m.add(near.low, m.add(twice.low, tail.low))
    high, low = split(LN2, m.format, 2, keep=m.format.fraction - 11)
    total = _fast_sum(m, m.mul(k, high), near.high)
    exact_small = m.test("oeq", k, 0.0)
    summed = m.pick(exact_small, near.high, total.high)
    below = m.add(m.fma(k, low, near_low), m.pick(exact_small, 0.0, total.low))
    return _fast_sum(m, summed, below)


def _magnitude_double(m: Lanes, a: Value, y: Value) -> Value:
    """Return ``a^y`` for ``a >= 0`` in f64."""
    log = _log_pair(m, a)
    edge = m.pick(m.test("oeq", a, 0.0), -math.inf, a)
    plain = m.both(m.test("ogt", a, 0.0), m.test("olt", a, math.inf))
    high = m.mul(y, m.pick(plain, log.high, edge))
    inside = m.test("olt", m.abs(high), 800.0)
    low = m.fma(y, log.low, m.fma(y, log.high, m.neg(high)))
    low = m.pick(inside, low, 0.0)
    high = m.clamp(high, -746.0, 710.0)
    r, raised = reduce_natural(m, high, shift=2 * m.format.bias)
    r = m.add(r, low)
    p = m.add(m.fma(m.mul(r, r), m.horner(c.EXP_F64, r), r), 1.0)
    return scale_twice(m, p, raised)


def _magnitude_single(m: Lanes, a: Value, y: Value) -> Value:
    """Return ``a^y`` for ``a >= 0`` in f32: ``2^(y log2 a)`` evaluated in f64 and rounded once."""
    b = m.b
    d = Lanes(b, vector(F64, lanes(m.type)))
    wide, exponent = b.cast("fpext", a, d.type), b.cast("fpext", y, d.type)
    log = log2_normal(d, wide)
    log = d.pick(d.test("oeq", wide, 0.0), -math.inf, log)
    log = d.pick(d.test("oeq", wide, math.inf), wide, log)
    t = d.clamp(d.mul(log, exponent), -200.0, 200.0)
    n, raised = d.round(t, 1.0, d.format.bias)
    p = d.horner((1.0, *c.POWF_EXP2), d.sub(t, n))
    return b.cast("fptrunc", d.mul(p, d.power(raised)), m.type)


def power(b: Builder, x: Value, y: Value) -> Value:
    """Return ``x^y`` with all special cases of C, such as ``x^0 = 1^y = 1``.

    Max error f32/f64: 0.6 / 1.2 ULP, denormal results included.
    """
    m = Lanes(b, x.type)
    a = m.abs(x)
    magnitude = _magnitude_single if m.single else _magnitude_double
    result = magnitude(m, a, y)
    whole = m.test("oeq", m.call("trunc", y), y)
    half = m.mul(y, 0.5)
    odd = m.both(whole, m.test("one", m.call("trunc", half), half))
    result = m.pick(odd, m.copysign(result, x), result)
    negative = m.both(m.test("olt", x, 0.0), m.test("ogt", x, -math.inf))
    fractional = m.both(negative, m.test("une", m.call("trunc", y), y))
    result = m.pick(fractional, math.nan, result)
    result = m.pick(m.test("uno", x, y), math.nan, result)
    infinite = m.both(m.test("oeq", a, 1.0), m.test("oeq", m.abs(y), math.inf))
    one = b.binary("or", m.test("oeq", x, 1.0), m.test("oeq", y, 0.0))
    return m.pick(b.binary("or", one, infinite), 1.0, result)

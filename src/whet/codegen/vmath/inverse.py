"""Inverse trigonometric and hyperbolic functions.

Algorithms: Muller, *Elementary Functions*, ch. 11, and fdlibm for the identities; own coefficients.
"""

from __future__ import annotations

import math

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.logarithm import LN2, log1p_lanes
from whet.codegen.vmath.primitives import Lanes, split
from whet.codegen.vmath.trigonometric import HALF_PI, PI
from whet.codegen.writing.builder import Builder, Value


def _asin_parts(m: Lanes, x: Value) -> tuple[Value, Value]:
    """Return whether ``|x| > 1/2`` and ``asin`` of ``|x|``, or of ``sqrt((1 - |x|) / 2)`` there."""
    a = m.abs(x)
    outer = m.test("ogt", a, 0.5)
    root = m.call("sqrt", m.fma(a, -0.5, 0.5))
    table = c.ASIN_F32 if m.single else c.ASIN_F64
    return outer, m.odd(table, m.pick(outer, root, a))


def asin(b: Builder, x: Value) -> Value:
    """Return the arc sine; NaN beyond 1.

    An odd polynomial up to 1/2, ``pi/2 - 2 asin(sqrt((1-x)/2))`` above.
    Max error f32/f64: 1.9 / 2.2 ULP.
    """
    m = Lanes(b, x.type)
    outer, p = _asin_parts(m, x)
    high, low = split(HALF_PI, m.format, 2)
    far = m.add(m.fma(p, -2.0, high), low)
    return m.copysign(m.pick(outer, far, p), x)


def acos(b: Builder, x: Value) -> Value:
    """Return the arc cosine from the polynomial of the arc sine; NaN beyond 1; 1.2 / 1.2 ULP."""
    m = Lanes(b, x.type)
    outer, p = _asin_parts(m, x)
    positive = m.test("ogt", x, 0.0)
    high, low = split(HALF_PI, m.format, 2)
    near = m.sub(high, m.sub(m.copysign(p, x), low))
    twice = m.add(p, p)
    pi_high, pi_low = split(PI, m.format, 2)
    far = m.pick(positive, twice, m.sub(pi_high, m.sub(twice, pi_low)))
    return m.pick(outer, far, near)


def atan(b: Builder, x: Value) -> Value:
    """Return the arc tangent: odd polynomial up to 1, the complement of ``1/x`` above.

    Max error f32/f64: 1.5 / 1.7 ULP.
    """
    m = Lanes(b, x.type)
    a = m.abs(x)
    outer = m.test("ogt", a, 1.0)
    t = m.pick(outer, m.div(1.0, a), a)
    p = m.odd(c.ATAN_F32 if m.single else c.ATAN_F64, t)
    high, low = split(HALF_PI, m.format, 2)
    return m.copysign(m.pick(outer, m.sub(high, m.sub(p, low)), p), x)


def _log_of_large(m: Lanes, a: Value, t: Value) -> Value:
    """Return ``log1p(t)``, or ``log(2 a)`` where ``a`` is so large that both agree."""
    huge = m.test("ogt", a, 2.0 ** (m.format.fraction + 4))
    result = log1p_lanes(m, m.pick(huge, a, t))
    result = m.add(result, m.pick(huge, LN2, 0.0))
    return m.pick(m.test("olt", a, math.inf), result, a)


def asinh(b: Builder, x: Value) -> Value:
    """Return the inverse hyperbolic sine.

    ``log1p(a + a^2 / (1 + sqrt(1 + a^2)))``, ``a = |x|``; ``log a + log 2`` where ``a`` is large.
    Max error f32/f64: 2.2 / 2.3 ULP.
    """
    m = Lanes(b, x.type)
    a = m.abs(x)
    square = m.mul(a, a)
    root = m.call("sqrt", m.add(square, 1.0))
    t = m.add(a, m.div(square, m.add(root, 1.0)))
    return m.copysign(_log_of_large(m, a, t), x)


def acosh(b: Builder, x: Value) -> Value:
    """Return ``acosh x`` as ``log1p(t + sqrt(2t + t^2))``, ``t = x - 1``; NaN below 1.

    Max error f32/f64: 2.1 / 2.1 ULP.
    """
    m = Lanes(b, x.type)
    t = m.sub(x, 1.0)
    root = m.call("sqrt", m.fma(t, t, m.add(t, t)))
    result = _log_of_large(m, x, m.add(t, root))
    return m.pick(m.test("ult", x, 1.0), math.nan, result)


def atanh(b: Builder, x: Value) -> Value:
    """Return ``atanh x`` as ``log1p(2a / (1 - a)) / 2``, ``a = |x|``; infinite at 1, NaN beyond.

    Max error f32/f64: 2.4 / 2.4 ULP.
    """
    m = Lanes(b, x.type)
    a = m.abs(x)
    t = m.div(m.add(a, a), m.sub(1.0, a))
    result = m.pick(m.test("olt", t, math.inf), m.mul(log1p_lanes(m, t), 0.5), t)
    return m.copysign(m.pick(m.test("ugt", a, 1.0), math.nan, result), x)

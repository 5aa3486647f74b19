"""exp and its relatives: ``2^n * P(r)`` after Cody-Waite reduction by a magic-number rounding.

Algorithm: Muller, *Elementary Functions*, ch. 11 (additive range reduction), and Tang (1989);
own minimax coefficients.
"""

from __future__ import annotations

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.primitives import Lanes, split
from whet.codegen.writing.builder import Builder, Value

LN2 = "0.69314718055994530941723212145817656807550013436026"
LOG2E = 1.4426950408889634


def _ln2(m: Lanes) -> tuple[float, ...]:
    """Return ln 2 in two parts; they need no spare bits because fma keeps products exact."""
    return split(LN2, m.format, 2)


def reduce_natural(m: Lanes, x: Value, sign: int = 1, shift: int = 0) -> tuple[Value, Value]:
    """Return ``sign * r`` and bits holding ``n + shift``, where ``sign * x = n ln2 + r``."""
    high, low = _ln2(m)
    n, raised = m.round(x, sign * LOG2E, shift)
    r = m.fma(n, -sign * high, x)
    return m.fma(n, -sign * low, r), raised


def scale_twice(m: Lanes, p: Value, raised: Value) -> Value:
    """Return ``p * 2^n``, denormals rounded once, for bits that hold ``n + 2 bias``."""
    half = m.integer("lshr", raised, 1)
    return m.mul(m.mul(p, m.power(half)), m.power(m.integer("sub", raised, half)))


def exp_lanes(m: Lanes, x: Value, sign: int = 1, *, nonpositive: bool = False) -> Value:
    """Return ``exp(sign * x)``; ``nonpositive`` promises ``sign * x <= 0`` and saves a clamp."""
    if not m.single:
        return _exp_double(m, x, sign)
    # 2 e^r * 2^(n-1): n = 128 then stays in range, and n = -126 gives the bits of 0.
    low, high = -87.33, 88.8
    if sign < 0:
        low, high = -high, -low
    if not (nonpositive and sign > 0):
        x = m.upper(x, high)
    if not (nonpositive and sign < 0):
        x = m.lower(x, low)
    r, raised = reduce_natural(m, x, sign, m.format.bias - 1)
    table = [2.0, *(2 * a * sign ** (k + 1) for k, a in enumerate(c.EXP_F32))]
    return m.mul(m.horner(table, r), m.power(raised))


def _exp_double(m: Lanes, x: Value, sign: int) -> Value:
    low, high = (-746.0, 710.0) if sign > 0 else (-710.0, 746.0)
    r, raised = reduce_natural(m, m.clamp(x, low, high), sign, 2 * m.format.bias)
    if sign < 0:
        r = m.neg(r)
    p = m.add(m.fma(m.mul(r, r), m.horner(c.EXP_F64, r), r), 1.0)
    return scale_twice(m, p, raised)


def exp(b: Builder, x: Value) -> Value:
    """Return ``e^x``.

    f32: degree 5, 13 vector instructions, 2.1 ULP; results below 2^-125.5 (1.66e-38) become 0,
    those above the largest float infinity. f64: degree 11, 1.0 ULP, denormal results.
    """
    return exp_lanes(Lanes(b, x.type), x)


def exp_nonpositive(b: Builder, x: Value) -> Value:
    """Return ``e^x`` for ``x <= 0``, as softmax needs it: `exp` without the upper clamp."""
    return exp_lanes(Lanes(b, x.type), x, nonpositive=True)


def exp2_lanes(m: Lanes, x: Value) -> Value:
    """Return ``2^x``."""
    if not m.single:
        n, raised = m.round(x := m.clamp(x, -1076.0, 1025.0), 1.0, 2 * m.format.bias)
        high, low = split(LN2, m.format, 2)
        f = m.sub(x, n)
        r = m.mul(f, high)
        tail = m.fma(f, low, m.fma(f, high, m.neg(r)))
        q = m.fma(m.mul(r, r), m.horner(c.EXP_F64, r), tail)
        return scale_twice(m, m.add(m.add(r, q), 1.0), raised)
    x = m.clamp(x, -126.0, 128.5)
    n, raised = m.round(x, 1.0, m.format.bias - 1)
    table = [2.0, *(2 * a for a in c.EXP2_F32)]
    return m.mul(m.horner(table, m.sub(x, n)), m.power(raised))


def exp2(b: Builder, x: Value) -> Value:
    """Return ``2^x``; exact at integers, range as `exp`. Max error f32/f64: 2.7 / 0.9 ULP."""
    return exp2_lanes(Lanes(b, x.type), x)


def expm1_lanes(m: Lanes, x: Value) -> Value:
    """Return ``e^x - 1`` without the sign of zero."""
    single = m.single
    low, high = (-17.5, 88.8) if single else (-38.0, 710.0)
    r, raised = reduce_natural(m, m.clamp(x, low, high), shift=m.format.bias - 1)
    table = c.EXPM1_F32 if single else c.EXPM1_F64
    q = m.fma(m.mul(r, r), m.horner(table, r), r)
    half = m.power(raised)
    result = m.fma(half, q, m.sub(half, 0.5))
    # Halving a denormal would lose its last bit, so n = 0 takes the series as it is.
    return m.pick(m.test("oeq", half, 0.5), q, m.add(result, result))


def expm1(b: Builder, x: Value) -> Value:
    """Return ``e^x - 1``, accurate near 0: ``2^n (e^r - 1) + (2^n - 1)``; 1.7 / 1.8 ULP."""
    m = Lanes(b, x.type)
    return m.copysign(expm1_lanes(m, x), x)


def _half_exp(m: Lanes, x: Value) -> Value:
    """Return ``e^x / 2`` for ``x >= 0``, finite where that is."""
    single = m.single
    r, raised = reduce_natural(m, m.upper(x, 89.5 if single else 711.0), shift=m.format.bias - 2)
    # 4 (e^r / 2^2): the factor 2^(n-2) stays normal up to the overflow of cosh.
    if single:
        p = m.horner([2.0, *(2 * a for a in c.EXP_F32)], r)
    else:
        p = m.add(m.fma(m.mul(r, r), m.horner(c.EXP_F64, r), r), 1.0)
        p = m.add(p, p)
    return m.mul(p, m.power(raised))


def sinh(b: Builder, x: Value) -> Value:
    """Return ``sinh x``: odd polynomial below 1, ``E - 1/(4E)`` with ``E = e^|x| / 2`` above.

    Max error f32/f64: 2.6 / 1.6 ULP.
    """
    m = Lanes(b, x.type)
    a = m.abs(x)
    large = _half_exp(m, a)
    large = m.copysign(m.sub(large, m.div(0.25, large)), x)
    small = m.odd(c.SINH_F32 if m.single else c.SINH_F64, x)
    return m.pick(m.test("olt", a, 1.0), small, large)


def cosh(b: Builder, x: Value) -> Value:
    """Return ``cosh x`` as ``E + 1/(4E)`` with ``E = e^|x| / 2``; 2.5 / 1.5 ULP."""
    m = Lanes(b, x.type)
    large = _half_exp(m, m.abs(x))
    return m.add(large, m.div(0.25, large))

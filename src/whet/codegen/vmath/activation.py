"""Sigmoid, tanh, erf and the activations that are cheaper fused than composed."""

from __future__ import annotations

import math

from whet.codegen.vmath import coefficients as c
from whet.codegen.vmath.exponential import LOG2E, exp2_lanes, exp_lanes, expm1_lanes
from whet.codegen.vmath.logarithm import log1p_lanes
from whet.codegen.vmath.primitives import Lanes
from whet.codegen.writing.builder import Builder, Value

TANH_ONE = 9.02
ERF_ONE = 3.84
GELU_ONE = 5.44


def _ratio(
    m: Lanes, x: Value, tables: tuple[tuple[float, ...], ...], end: float, most: float
) -> Value:
    """Return ``x P(x^2) / Q(x^2)`` within ``[-most, most]``, ``P / Q`` constant for ``|x| > end``.

    Limiting the result, not ``x``, keeps it from passing ``most`` by a rounding.
    """
    u = m.upper(m.mul(x, x), end * end)
    top, bottom = tables
    return m.clamp(m.div(m.mul(x, m.horner(top, u)), m.horner(bottom, u)), -most, most)


def sigmoid(b: Builder, x: Value) -> Value:
    """Return ``1 / (1 + e^-x)``, relatively accurate down to where ``e^-x`` overflows (then 0).

    Max error f32/f64: 3.2 / 2.3 ULP. One division: a reciprocal by polynomial and two Newton steps
    is six more multiply-adds, which is no gain where division is pipelined beside them.
    """
    m = Lanes(b, x.type)
    return m.div(1.0, m.add(exp_lanes(m, x, -1), 1.0))


def silu(b: Builder, x: Value) -> Value:
    """Return ``x sigmoid(x)`` as ``x / (1 + e^-x)``; NaN at -inf, as the product is.

    Max error f32/f64: 3.4 / 2.1 ULP.
    """
    m = Lanes(b, x.type)
    return m.div(x, m.add(exp_lanes(m, x, -1), 1.0))


def tanh(b: Builder, x: Value) -> Value:
    """Return the hyperbolic tangent.

    f32: minimax ``x P4(x^2) / Q4(x^2)``, constant from 9.02 on; f64: ``t / (t + 2)`` with
    ``t = e^2|x| - 1``. Max error f32/f64: 4.6 / 2.6 ULP; never beyond 1.
    """
    m = Lanes(b, x.type)
    if m.single:
        return _ratio(m, x, (c.TANH_F32, c.TANH_F32_DENOMINATOR), TANH_ONE, 1.0)
    a = m.upper(m.abs(x), 20.0)
    t = expm1_lanes(m, m.add(a, a))
    return m.copysign(m.div(t, m.add(t, 2.0)), x)


def erf(b: Builder, x: Value) -> Value:
    """Return the error function.

    f32: minimax ``x P5(x^2) / Q5(x^2)``, constant from 3.84 on. f64: odd polynomial up to 1, then
    ``1 - e^(-x^2) P12(2 / (2 + x))`` up to 6, where it is 1. Max error f32/f64: 5.9 / 1.6 ULP (the
    f32 one is 3.6e-7, near 1); never beyond 1.
    """
    m = Lanes(b, x.type)
    if m.single:
        return _ratio(m, x, (c.ERF_F32, c.ERF_F32_DENOMINATOR), ERF_ONE, 1.0)
    a = m.upper(m.abs(x), 6.0)
    square = m.mul(a, a)
    small = m.mul(a, m.horner(c.ERF_F64, square))
    tail = m.mul(exp_lanes(m, square, -1), m.horner(c.ERFC_F64, m.div(2.0, m.add(a, 2.0))))
    return m.copysign(m.pick(m.test("olt", a, 1.0), small, m.sub(1.0, tail)), x)


def gelu(b: Builder, x: Value) -> Value:
    """Return ``x (1 + erf(x / sqrt 2)) / 2``.

    f32: the scaled erf is one minimax ratio with an absolute error, as the sum with 1/2 needs it.
    Negative results cancel by definition: max error f32/f64
    2.6 / 1.2 ULP for ``x > 0``, 9e-7 / 3e-16 below (1.7e-7 / 1.7e-16 of ``|x|``).
    """
    m = Lanes(b, x.type)
    if m.single:
        half = _ratio(m, x, (c.GELU_F32, c.GELU_F32_DENOMINATOR), GELU_ONE, 0.5)
        return m.fma(x, half, m.mul(x, 0.5))
    half = m.mul(x, 0.5)
    return m.fma(half, erf(b, m.mul(x, math.sqrt(0.5))), half)


def gelu_tanh(b: Builder, x: Value) -> Value:
    """Return ``x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2``.

    Computed as ``x / (1 + 2^v)``, ``v = x (a + b x^2)``, which keeps small negative results
    accurate up to the rounding of ``v``: max error
    f32/f64 2.3 / 2.0 ULP for ``x > 0``, 5e-8 / 1.1e-16 below.
    """
    m = Lanes(b, x.type)
    slope = -2 * math.sqrt(2 / math.pi) * LOG2E
    v = m.mul(x, m.fma(m.mul(x, x), slope * 0.044715, slope))
    return m.div(x, m.add(exp2_lanes(m, v), 1.0))


def softplus(b: Builder, x: Value) -> Value:
    """Return ``log(1 + e^x)`` as ``max(x, 0) + log1p(e^-|x|)``. Max error: 2.9 / 2.2 ULP."""
    m = Lanes(b, x.type)
    tail = log1p_lanes(m, exp_lanes(m, m.abs(x), -1, nonpositive=True))
    return m.add(m.lower(x, 0.0), tail)

"""Fit the polynomials of ``whet.codegen.vmath`` and print them as a Python module.

Minimax fits by the Remez exchange (Cheney, *Introduction to Approximation Theory*, ch. 3 and 5) in
60-digit arithmetic, weighted so that the error of the *finished* function is relative. Coefficients
are rounded to the target format one by one, lowest order first, the rest fitted again each time.

Run ``python scripts/fit_vmath.py > src/whet/codegen/vmath/coefficients.py`` (needs ``mpmath``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 60
Real = Callable[[mp.mpf], mp.mpf]
GRID = 600


@dataclass(frozen=True)
class Fit:
    """One table: ``P / Q`` close to ``target`` on ``[low, high]``, the error weighted."""

    name: str
    target: Real
    weight: Real
    low: float
    high: float
    degree: int
    denominator: int = 0
    dtype: type = np.float32
    fixed: tuple[tuple[int, float], ...] = ()


class Exchange:
    """The state of one fit: sampled target and the coefficients fixed so far (by column)."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        low, high = mp.mpf(fit.low), mp.mpf(fit.high)
        nodes = [
            (low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (k + 0.5) / GRID)
            for k in range(GRID)
        ]
        self.points = sorted(nodes)
        self.target = [fit.target(u) for u in self.points]
        self.weight = [abs(fit.weight(u)) for u in self.points]
        self.columns = fit.degree + 1 + fit.denominator
        self.fixed: dict[int, mp.mpf] = {k: mp.mpf(v) for k, v in fit.fixed}

    def turn(self, k: int) -> int:
        """Return the sign of ``u^n``, ``n`` orders fixed: the rest is ``u^n`` times a free fit."""
        return -1 if self.points[k] < 0 and len(self.fixed) % 2 else 1

    def value(self, coefficients: list[mp.mpf], k: int) -> tuple[mp.mpf, mp.mpf]:
        """Return the approximation and its denominator at a grid point."""
        u, split = self.points[k], self.fit.degree + 1
        bottom = mp.polyval([*reversed(coefficients[split:]), 1], u)
        return mp.polyval(list(reversed(coefficients[:split])), u) / bottom, bottom

    def solve(self, reference: list[int], bottoms: list[mp.mpf]) -> tuple[list[mp.mpf], mp.mpf]:
        """Return coefficients whose weighted error alternates on the reference, and that error."""
        free = [c for c in range(self.columns) if c not in self.fixed]
        matrix, right = mp.matrix(len(reference), len(free) + 1), mp.matrix(len(reference), 1)
        for row, k in enumerate(reference):
            u, g = self.points[k], self.target[k]
            top = self.fit.degree + 1
            basis = [u**c if c < top else -g * u ** (c - top + 1) for c in range(self.columns)]
            for column, c in enumerate(free):
                matrix[row, column] = basis[c]
            sign = self.turn(k) * (1 if row % 2 else -1)
            matrix[row, len(free)] = sign * bottoms[row] / self.weight[k]
            right[row] = g - sum(basis[c] * value for c, value in self.fixed.items())
        answer = mp.lu_solve(matrix, right)
        found = dict(self.fixed) | {c: answer[i] for i, c in enumerate(free)}
        return [found[c] for c in range(self.columns)], answer[len(free)]

    def extrema(self, errors: list[mp.mpf], count: int) -> list[int]:
        """Return the grid points of ``count`` alternating extrema of the error."""
        picks: list[int] = []
        for k, e in enumerate(errors):
            if picks and (e > 0) == (errors[picks[-1]] > 0):
                if abs(e) > abs(errors[picks[-1]]):
                    picks[-1] = k
            else:
                picks.append(k)
        while len(picks) > count:
            if abs(errors[picks[0]]) < abs(errors[picks[-1]]):
                picks.pop(0)
            else:
                picks.pop()
        return picks

    def run(self) -> tuple[list[mp.mpf], mp.mpf]:
        """Return the coefficients and the largest weighted error."""
        count = self.columns - len(self.fixed) + 1
        if count == 1:
            coefficients = [self.fixed[c] for c in range(self.columns)]
            return coefficients, max(map(abs, self.errors(coefficients)))
        reference = [
            round((1 - np.cos(np.pi * k / (count - 1))) / 2 * (GRID - 1)) for k in range(count)
        ]
        bottoms = [mp.mpf(1)] * count
        best: tuple[list[mp.mpf], mp.mpf] | None = None
        for _ in range(30):
            for _ in range(8 if self.fit.denominator else 1):
                coefficients, level = self.solve(reference, bottoms)
                bottoms = [self.value(coefficients, k)[1] for k in reference]
            errors = [self.turn(k) * e for k, e in enumerate(self.errors(coefficients))]
            worst = max(map(abs, errors))
            if best is None or worst < best[1]:
                best = coefficients, worst
            picks = self.extrema(errors, count)
            if worst < abs(level) * mp.mpf("1.005") or len(picks) < count or picks == reference:
                break
            reference = picks
            bottoms = [self.value(coefficients, k)[1] for k in reference]
        if best is None:
            raise ArithmeticError(f"the exchange for {self.fit.name} never started")
        return best

    def errors(self, coefficients: list[mp.mpf]) -> list[mp.mpf]:
        """Return the weighted error on the grid."""
        return [
            w * (self.value(coefficients, k)[0] - g)
            for k, (g, w) in enumerate(zip(self.target, self.weight, strict=True))
        ]


def fit_table(fit: Fit) -> tuple[list[float], list[float], float, float]:
    """Return rounded numerator and denominator coefficients, and the error before and after."""
    state = Exchange(fit)
    coefficients, ideal = state.run()
    order = sorted(range(state.columns), key=lambda c: c if c <= fit.degree else c - fit.degree)
    for column in order:
        if column not in state.fixed:
            state.fixed[column] = mp.mpf(float(fit.dtype(float(coefficients[column]))))
            coefficients, worst = state.run()
    values = [float(c) for c in coefficients]
    worst = max(map(abs, state.errors(coefficients)))
    return values[: fit.degree + 1], values[fit.degree + 1 :], float(ideal), float(worst)


F32, F64 = np.float32, np.float64
HALF_LN2 = float(mp.log(2) / 2) * 1.001
QUARTER, HALF_PI = float(mp.pi / 4) * 1.01, float(mp.pi / 2) * 1.01
LN2, TAU_ROOT = mp.log(2), mp.sqrt(2)


def _exp_q(r: mp.mpf) -> mp.mpf:
    return (mp.expm1(r) - r) / r**2


def _odd(function: Real) -> Real:
    """Return ``(f(x) - x) / x^3`` as a function of ``u = x^2``."""
    return lambda u: (function(mp.sqrt(u)) - mp.sqrt(u)) / (u * mp.sqrt(u))


def _odd_weight(function: Real) -> Real:
    return lambda u: u * mp.sqrt(u) / function(mp.sqrt(u))


def _over_x(function: Real) -> Real:
    """Return ``f(x) / x`` as a function of ``u = x^2``."""
    return lambda u: function(mp.sqrt(u)) / mp.sqrt(u)


def _inverse(function: Real) -> Real:
    return lambda u: 1 / function(u)


def _log_even(z: mp.mpf) -> mp.mpf:
    """Return ``(log((1+s)/(1-s)) - 2s) / s^3`` for ``z = s^2``."""
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / s**3


def _half_erf(x: mp.mpf) -> mp.mpf:
    return mp.erf(x / TAU_ROOT) / 2


def _log_even_rest(z: mp.mpf) -> mp.mpf:
    """Return ``(log((1+s)/(1-s)) - 2s - 2/3 s^3) / s^5`` for ``z = s^2``."""
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s - 2 * s**3 / 3) / s**5


def _erfcx_t(t: mp.mpf) -> mp.mpf:
    """Return ``exp(x^2) erfc(x)`` for ``t = 2 / (2 + x)``."""
    x = 2 / t - 2
    return mp.exp(x * x) * mp.erfc(x)


def _erfcx_weight(t: mp.mpf) -> mp.mpf:
    x = 2 / t - 2
    return mp.exp(-x * x) / mp.erf(x)


def fits() -> list[Fit]:
    """Return every table that the functions use."""
    return [
        Fit("EXP_F32", lambda r: mp.expm1(r) / r, lambda r: r / mp.exp(r), -HALF_LN2, HALF_LN2, 4),
        Fit(
            "EXP2_F32", lambda r: mp.expm1(r * LN2) / r, lambda r: r / mp.exp(r * LN2), -0.5, 0.5, 4
        ),
        Fit("EXP_F64", _exp_q, lambda r: r**2 / mp.exp(r), -HALF_LN2, HALF_LN2, 9, dtype=F64),
        Fit("EXPM1_F32", _exp_q, lambda r: r**2 / mp.expm1(r), -HALF_LN2, HALF_LN2, 4),
        Fit("EXPM1_F64", _exp_q, lambda r: r**2 / mp.expm1(r), -HALF_LN2, HALF_LN2, 10, dtype=F64),
        Fit(
            "LOG_F32",
            lambda r: (mp.log1p(r) - r) / r**2,
            lambda r: r**2 / mp.log1p(r),
            -1 / 3 - 1e-6,
            1 / 3 + 1e-6,
            7,
        ),
        Fit(
            "LOG2_F32",
            lambda r: mp.log1p(r) / LN2 / r,
            lambda r: r * LN2 / mp.log1p(r),
            -0.33334,
            0.33334,
            9,
        ),
        Fit(
            "LOG_F64",
            _log_even,
            lambda z: z * mp.sqrt(z) / mp.atanh(mp.sqrt(z)) / 2,
            0,
            0.0401,
            7,
            dtype=F64,
        ),
        Fit("SIN_F32", _odd(mp.sin), _odd_weight(mp.sin), 0, HALF_PI**2, 3),
        Fit("SIN_F64", _odd(mp.sin), _odd_weight(mp.sin), 0, HALF_PI**2, 8, dtype=F64),
        Fit("TAN_F32", _odd(mp.tan), _odd_weight(mp.tan), 0, QUARTER**2, 5),
        Fit("TAN_F64", _odd(mp.tan), _odd_weight(mp.tan), 0, QUARTER**2, 13, dtype=F64),
        Fit("ASIN_F32", _odd(mp.asin), _odd_weight(mp.asin), 0, 0.25, 4),
        Fit("ASIN_F64", _odd(mp.asin), _odd_weight(mp.asin), 0, 0.25, 11, dtype=F64),
        Fit("ATAN_F32", _odd(mp.atan), _odd_weight(mp.atan), 0, 1, 7),
        Fit("ATAN_F64", _odd(mp.atan), _odd_weight(mp.atan), 0, 1, 18, dtype=F64),
        Fit("SINH_F32", _odd(mp.sinh), _odd_weight(mp.sinh), 0, 1, 2),
        Fit("SINH_F64", _odd(mp.sinh), _odd_weight(mp.sinh), 0, 1, 6, dtype=F64),
        Fit(
            "TANH_F32",
            _over_x(mp.tanh),
            _inverse(_over_x(mp.tanh)),
            0,
            9.02**2,
            4,
            4,
            fixed=((0, 1.0),),
        ),
        Fit("ERF_F32", _over_x(mp.erf), _inverse(_over_x(mp.erf)), 0, 3.84**2, 5, 5),
        Fit("GELU_F32", _over_x(_half_erf), mp.sqrt, 0, 5.44**2, 6, 4),
        Fit("ERF_F64", _over_x(mp.erf), _inverse(_over_x(mp.erf)), 0, 1, 11, dtype=F64),
        Fit("ERFC_F64", _erfcx_t, _erfcx_weight, 0.249, 2 / 3 + 1e-6, 12, dtype=F64),
        Fit(
            "POWF_EXP2",
            lambda r: mp.expm1(r * LN2) / r,
            lambda r: r / mp.exp(r * LN2),
            -0.5,
            0.5,
            6,
            dtype=F64,
        ),
        Fit("POW_LOG", _log_even_rest, lambda z: z**2, 0, 0.0401, 7, dtype=F64),
    ]


def main() -> None:
    """Print the module."""
    print('"""Minimax coefficients, lowest order first; ``scripts/fit_vmath.py`` writes this file.')
    print("\nThe comment on each table is the largest error of the finished function that the fit")
    print(
        'allows: with exact coefficients, then with rounded ones (evaluation comes on top).\n"""\n'
    )
    for fit in fits():
        top, bottom, ideal, worst = fit_table(fit)
        _print(fit.name, top, ideal, worst)
        if bottom:
            _print(fit.name + "_DENOMINATOR", [1.0, *bottom], ideal, worst)


def _print(name: str, values: list[float], ideal: float, worst: float) -> None:
    print(f"# {ideal:.1e}, {worst:.1e}\n{name} = (")
    for value in values:
        print(f"    {value!r},")
    print(")", flush=True)


if __name__ == "__main__":
    main()

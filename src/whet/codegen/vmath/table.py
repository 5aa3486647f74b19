"""The table of functions: what each emits, how many operands it takes, how exact it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from whet.codegen.vmath import (
    activation,
    exponential,
    inverse,
    logarithm,
    power,
    rounding,
    trigonometric,
)
from whet.codegen.writing.builder import Builder, Module, Value

Emit = Callable[..., Value]


class MathFunction(msgspec.Struct, frozen=True):
    """A function on lanes of ``float`` or ``double``.

    ``max_ulp_f32`` and ``max_ulp_f64`` bound the error in units in the last place of the exact
    result; ``floor_f32`` and ``floor_f64`` are absolute errors allowed on top, where results are
    flushed to zero or the definition itself cancels.
    """

    name: str
    emit: Emit
    arity: int
    max_ulp_f32: float
    max_ulp_f64: float
    floor_f32: float = 0.0
    floor_f64: float = 0.0


def instructions(function: MathFunction, type_: str) -> int:
    """Return how many instructions the function writes on one vector: its cost, unshared."""
    module = Module()
    builder = Builder(module, "cost", [(type_, f"x{k}") for k in range(function.arity)], type_)
    operands = [Value(f"%x{k}", type_) for k in range(function.arity)]
    builder.finish(function.emit(builder, *operands))
    return module.text().count("\n  %v")


def _table(*functions: MathFunction) -> Mapping[str, MathFunction]:
    table = {f.name: f for f in functions}
    if len(table) != len(functions):
        raise ValueError("two vector functions share a name")
    return MappingProxyType(table)


FUNCTIONS: Mapping[str, MathFunction] = _table(
    MathFunction("exp", exponential.exp, 1, 2.2, 1.2, 1.7e-38),
    MathFunction("exp_nonpositive", exponential.exp_nonpositive, 1, 2.2, 1.2, 1.7e-38),
    MathFunction("exp2", exponential.exp2, 1, 2.9, 1.2, 1.7e-38),
    MathFunction("expm1", exponential.expm1, 1, 1.9, 2.0),
    MathFunction("sinh", exponential.sinh, 1, 2.8, 1.8),
    MathFunction("cosh", exponential.cosh, 1, 2.7, 1.6),
    MathFunction("log", logarithm.log, 1, 1.3, 1.4),
    MathFunction("log2", logarithm.log2, 1, 2.0, 1.7),
    MathFunction("log1p", logarithm.log1p, 1, 2.0, 2.1),
    MathFunction("sigmoid", activation.sigmoid, 1, 3.6, 2.5, 3e-39, 6e-309),
    MathFunction("silu", activation.silu, 1, 3.7, 2.4, 3e-37, 4e-306),
    MathFunction("tanh", activation.tanh, 1, 4.9, 2.8),
    MathFunction("erf", activation.erf, 1, 6.3, 1.8),
    MathFunction("gelu", activation.gelu, 1, 2.8, 1.4, 1e-6, 4e-16),
    MathFunction("gelu_tanh", activation.gelu_tanh, 1, 2.6, 2.3, 6e-8, 2e-16),
    MathFunction("softplus", activation.softplus, 1, 3.2, 2.4, 1.7e-38),
    MathFunction("sin", trigonometric.sin, 1, 1.9, 3.0),
    MathFunction("cos", trigonometric.cos, 1, 1.9, 3.0),
    MathFunction("tan", trigonometric.tan, 1, 3.0, 3.8),
    MathFunction("asin", inverse.asin, 1, 2.1, 2.4),
    MathFunction("acos", inverse.acos, 1, 1.3, 1.4),
    MathFunction("atan", inverse.atan, 1, 1.6, 1.8),
    MathFunction("asinh", inverse.asinh, 1, 2.3, 2.5),
    MathFunction("acosh", inverse.acosh, 1, 2.3, 2.3),
    MathFunction("atanh", inverse.atanh, 1, 2.5, 2.5),
    MathFunction("pow", power.power, 2, 0.6, 1.3),
    MathFunction("sqrt", rounding.one_instruction("sqrt"), 1, 0.5, 0.5),
    MathFunction("rsqrt", rounding.rsqrt, 1, 1.5, 1.5),
    MathFunction("reciprocal", rounding.reciprocal, 1, 0.5, 0.5),
    MathFunction("abs", rounding.one_instruction("fabs"), 1, 0, 0),
    MathFunction("floor", rounding.one_instruction("floor"), 1, 0, 0),
    MathFunction("ceil", rounding.one_instruction("ceil"), 1, 0, 0),
    MathFunction("round", rounding.one_instruction("roundeven"), 1, 0, 0),
    MathFunction("trunc", rounding.one_instruction("trunc"), 1, 0, 0),
    MathFunction("sign", rounding.sign, 1, 0, 0),
    MathFunction("relu", rounding.relu, 1, 0, 0),
    MathFunction("minimum", rounding.minimum, 2, 0, 0),
    MathFunction("maximum", rounding.maximum, 2, 0, 0),
    MathFunction("fmod", rounding.fmod, 2, 0, 0),
    MathFunction("mod", rounding.mod, 2, 0.5, 0.5),
)

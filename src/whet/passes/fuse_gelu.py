"""The steps of a Gaussian error linear unit become ``Gelu``.

Exact: ``x · (1 + erf(x/√2)) / 2``. Approximate: ``x · (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2``.
Both are recognised in every order of the products that exporters write.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from whet.graph.match import Any, Number, OneOf, Op, Pattern
from whet.passes.fusing import fuse_unary

_X = Any("x")


def _add(a: Pattern, b: Pattern) -> Op:
    return Op("Add", (a, b), commutative=True)


def _mul(a: Pattern, b: Pattern) -> Op:
    return Op("Mul", (a, b), commutative=True)


def _half_product(gate: Pattern) -> OneOf:
    """Match ``x · gate / 2`` in all its orders."""
    half = Number(0.5)
    return OneOf(
        (
            _mul(_mul(_X, gate), half),
            _mul(_X, _mul(gate, half)),
            _mul(_mul(_X, half), gate),
            Op("Div", (_mul(_X, gate), Number(2.0))),
        )
    )


_ERF = Op(
    "Erf",
    (OneOf((Op("Div", (_X, Number(math.sqrt(2)))), _mul(_X, Number(math.sqrt(0.5))))),),
)
_EXACT = _half_product(_add(_ERF, Number(1.0)))

_C = Number(0.044715)
_SQUARE = OneOf((_mul(_X, _X), Op("Pow", (_X, Number(2.0)))))
_CUBE = OneOf((Op("Pow", (_X, Number(3.0))), _mul(_X, _SQUARE)))
_POLYNOMIAL = OneOf(
    (
        _add(_X, _mul(_C, _CUBE)),
        _add(_X, _mul(_X, _mul(_C, _SQUARE))),
        _add(_X, _mul(_mul(_C, _X), _SQUARE)),
        _add(_X, _mul(_mul(_mul(_C, _X), _X), _X)),
        _mul(_X, _add(Number(1.0), _mul(_C, _SQUARE))),
        _mul(_X, _add(Number(1.0), _mul(_mul(_C, _X), _X))),
    )
)
_ROOT = Number(math.sqrt(2 / math.pi))
_ANGLE = OneOf(
    (
        _mul(_ROOT, _POLYNOMIAL),
        _mul(_mul(_ROOT, _X), _add(Number(1.0), _mul(_C, _SQUARE))),
        _mul(_mul(_ROOT, _X), _add(Number(1.0), _mul(_mul(_C, _X), _X))),
    )
)
_APPROXIMATE = _half_product(_add(Op("Tanh", (_ANGLE,)), Number(1.0)))


def fuse_gelu(model: ir.Model) -> int:
    """Fuse both forms of Gelu in the main graph; return how many."""
    exact = fuse_unary(model, _EXACT, "Gelu")
    return exact + fuse_unary(model, _APPROXIMATE, "Gelu", {"approximate": "tanh"})

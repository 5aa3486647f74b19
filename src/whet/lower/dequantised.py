"""Floats that are a byte and a few operations with constants, as DequantizeLinear computes them."""

from __future__ import annotations

from dataclasses import dataclass

from whet.dtypes import BYTES
from whet.kernel.expr import Call, Const, Expr, walk


@dataclass(frozen=True, slots=True)
class Dequantised:
    """A float that is a function of a byte.

    Attributes:
        byte: the byte.
        steps: the calls from the float down to the byte, each with the place of what comes next.
    """

    byte: Expr
    steps: tuple[tuple[Call, int], ...]

    def of(self, byte: Expr) -> Expr:
        """Return the float of another byte."""
        value = byte
        for call, place in reversed(self.steps):
            args = (*call.args[:place], value, *call.args[place + 1 :])
            value = Call(call.op, args, call.dtype)
        return value


def dequantised(expr: Expr) -> Dequantised | None:
    """Take a float apart that is a byte and a few operations with constants."""
    steps: list[tuple[Call, int]] = []
    while expr.dtype not in BYTES:
        if not isinstance(expr, Call):
            return None
        places = [k for k, arg in enumerate(expr.args) if not _is_constant(arg)]
        if len(places) != 1:
            return None
        steps.append((expr, places[0]))
        expr = expr.args[places[0]]
    return None if _is_constant(expr) else Dequantised(expr, tuple(steps))


def _is_constant(expr: Expr) -> bool:
    return all(isinstance(e, Call | Const) for e in walk(expr))

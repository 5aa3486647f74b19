"""Small constant matrices times vectors of registers."""

from __future__ import annotations

from collections.abc import Sequence

from whet.codegen.writing.builder import Builder, Value, const


def transformed(
    b: Builder, matrix: Sequence[Sequence[float]], values: Sequence[Value]
) -> list[Value]:
    """Return a matrix times a vector of registers."""
    return [combined(b, list(zip(line, values, strict=True))) for line in matrix]


def combined(b: Builder, terms: Sequence[tuple[float, Value]]) -> Value:
    """Return a sum of registers with factors, without products by 0 and 1."""
    left = sorted((t for t in terms if t[0]), key=lambda t: (t[0] != 1, abs(t[0]) != 1))
    factor, total = left[0]
    if factor != 1:
        total = b.binary("fmul", total, const(total.type, factor))
    for factor, value in left[1:]:
        if abs(factor) == 1:
            total = b.binary("fadd" if factor == 1 else "fsub", total, value)
        else:
            total = b.fma(value, const(value.type, factor), total)
    return total


def even_first(factors: Sequence[float], values: Sequence[Value]) -> list[tuple[float, Value]]:
    """Return terms in an order in which points ``p`` and ``-p`` begin with the same sum."""
    return [(factors[k], values[k]) for k in (0, 2, 1)]

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


def tap_sum(b: Builder, factors: Sequence[float], taps: Sequence[Value], *, adds: bool) -> Value:
    """Return taps times the factors of a weight, which are powers of 2.

    Points ``p`` and ``-p`` begin with the same sum. Additions alone give the same bits; they take
    ports that a product a cycle leaves idle.
    """
    terms = [(factors[k], taps[k]) for k in (0, 2, 1)]
    return _doubled(b, terms) if adds else combined(b, terms)


def _doubled(b: Builder, terms: Sequence[tuple[float, Value]]) -> Value:
    """Return a sum of registers with factors that are powers of 2, by additions."""
    (leading, first), *others = [term for term in terms if term[0]]
    assert leading > 0, "the first factor of a point is that of an even power"
    total = _times(b, leading, first)
    for factor, value in others:
        total = b.binary("fadd" if factor > 0 else "fsub", total, _times(b, abs(factor), value))
    return total


def _times(b: Builder, power: float, value: Value) -> Value:
    """Return a register times a power of 2."""
    for _ in range(int(power).bit_length() - 1):
        value = b.binary("fadd", value, value)
    return value

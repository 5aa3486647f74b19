"""Small matrices of integers times a vector of registers, by sums that lines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

import msgspec

from whet.codegen.writing.builder import Builder, Value, const

Term = tuple[int, int]
"""A factor and the number of the register that it multiplies."""
Part = Callable[[int, int], int]
"""Which sum a factor of a register's number belongs to."""


def of_parity(factor: int, number: int) -> int:
    """Tell even powers from odd ones: lines of points ``p`` and ``-p`` share both sums."""
    return number % 2


def of_size(factor: int, number: int) -> int:
    """Tell factors by their size: those of points ``p`` and ``-p`` are equal but for the sign."""
    return abs(factor)


class IntegerSums(msgspec.Struct, frozen=True):
    """Lines of a matrix times registers.

    Attributes:
        b: where to write.
        values: the registers.
        part: which terms of a line are added up first, as other lines need their sum too.
        known: sums that were written.
    """

    b: Builder
    values: Sequence[Value]
    part: Part
    known: dict[tuple[Term, ...], Value] = msgspec.field(default_factory=dict)

    def line(self, factors: Sequence[int]) -> Value:
        """Return the sum of registers times factors."""
        parts: dict[int, list[Term]] = {}
        for number, factor in enumerate(factors):
            if factor:
                parts.setdefault(self.part(factor, number), []).append((factor, number))
        sums = sorted((self._part(terms) for terms in parts.values()), key=lambda s: -s[0])
        sign, total = sums[0]
        if sign < 0:
            total = self.b.binary("sub", const(total.type, 0), total)
        for sign, value in sums[1:]:
            total = self.b.binary("add" if sign > 0 else "sub", total, value)
        return total

    def _part(self, terms: list[Term]) -> tuple[int, Value]:
        """Return the sign and the value of a sum, which is shared with its negative."""
        leading, _ = max(terms, key=lambda t: (abs(t[0]), -t[1]))
        sign = 1 if leading > 0 else -1
        size = gcd(*(factor for factor, _ in terms))
        shared = tuple(sorted((sign * factor // size, number) for factor, number in terms)[::-1])
        return sign, self._scaled(shared, size)

    def _scaled(self, terms: tuple[Term, ...], size: int) -> Value:
        if size == 1:
            return self._sum(terms)
        key = (*terms, (size, -1))
        if key not in self.known:
            whole = self._sum(terms)
            self.known[key] = self.b.binary("mul", whole, const(whole.type, size))
        return self.known[key]

    def _sum(self, terms: tuple[Term, ...]) -> Value:
        (factor, number), *rest = terms
        if not rest:
            assert factor == 1, "common factors are taken out"
            return self.values[number]
        if terms not in self.known:
            total = self._scaled(((1, number),), factor)
            for factor, number in rest:
                opcode = "add" if factor > 0 else "sub"
                term = self._scaled(((1, number),), abs(factor))
                total = self.b.binary(opcode, total, term)
            self.known[terms] = total
        return self.known[terms]


def integer_transform(
    b: Builder, matrix: Sequence[Sequence[int]], values: Sequence[Value], part: Part
) -> list[Value]:
    """Return a matrix of integers times a vector of registers."""
    sums = IntegerSums(b, values, part)
    return [sums.line(line) for line in matrix]

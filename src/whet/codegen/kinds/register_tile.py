"""A register tile: a small product whose sums stay in registers from first to last step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.codegen.writing.builder import F32, Builder, Value, const, i64, vector
from whet.codegen.writing.dot_product import DotProduct, Factors

UNROLL = 4

Operand = Callable[[int, Value, int], Value]
"""``operand(i, k, u)``: element or vector ``i`` at depth ``k + u``, where ``u`` is known."""


class Operands(msgspec.Struct, frozen=True):
    """What a register tile multiplies.

    Attributes:
        scalars: broadcast operand, an element for each row.
        vectors: vector operand.
        lines: broadcast operand at as many depth steps as a vector has lanes, for targets whose
            multiply-add takes a lane; ``None`` loads element by element.
        dot: how integers are multiplied of which several share a lane of 32 bits; ``None`` for
            floats.
        unroll: depth steps in a round of the loop.
    """

    scalars: Operand
    vectors: Operand
    lines: Operand | None = None
    dot: DotProduct | None = None
    unroll: int = UNROLL


def register_tile(
    b: Builder,
    width: int,
    shape: tuple[int, int],
    depth: int | Value,
    operands: Operands,
    *,
    every: Callable[[], None] | None = None,
) -> list[list[Value]]:
    """Return ``sum over depth of scalars(i) * vectors(j)`` for each row ``i`` and vector ``j``.

    Args:
        b: where to write.
        width: lanes of a vector.
        shape: rows and vectors of the tile; it must leave registers for the operands.
        depth: number of steps, an integer at run time if it is not known before.
        operands: what is multiplied.
        every: called once in each unrolled block of steps, for prefetching.
    """
    dot = operands.dot
    type_ = vector(F32 if dot is None else "i32", width)
    cells = [[_zero(b, type_) for _ in range(shape[1])] for _ in range(shape[0])]

    def steps(k: Value, count: int) -> None:
        sums = [[b.load(type_, cell, 64) for cell in line] for line in cells]
        rows = [_Row(b, width, operands, i) for i in range(shape[0])]
        for u in range(count):
            vectors = [operands.vectors(j, k, u) for j in range(shape[1])]
            loaded = [(v,) if dot is None else dot.vectors(b, v) for v in vectors]
            for row, line in zip(rows, sums, strict=True):
                value = row.broadcast(k, u, count)
                for j, before in enumerate(line):
                    line[j] = _added(b, dot, before, value, loaded[j])
        for line, targets in zip(sums, cells, strict=True):
            for total, cell in zip(line, targets, strict=True):
                b.store(total, cell, 64)

    unrolled(b, depth, steps, every, operands.unroll)
    return [[b.load(type_, cell, 64) for cell in line] for line in cells]


def _added(
    b: Builder, dot: DotProduct | None, before: Value, scalars: Factors, vectors: Factors
) -> Value:
    if dot is None:
        return b.fma(scalars[0], vectors[0], before)
    return dot.add(b, before, scalars, vectors)


def unrolled(
    b: Builder,
    depth: int | Value,
    steps: Callable[[Value, int], None],
    every: Callable[[], None] | None = None,
    unroll: int = UNROLL,
) -> None:
    """Write the loop over unrolled blocks of steps, and the steps that are left."""
    length = i64(depth) if isinstance(depth, int) else depth
    blocks, left = b.divide(length, unroll)
    whole = b.mul(blocks, i64(unroll))
    with b.loop(i64(0), whole, unroll, hint="k") as k:
        if every is not None:
            every()
        steps(k, unroll)
    if left.known is None:
        with b.loop(whole, length, hint="rest") as k:
            steps(k, 1)
    elif left.known:
        steps(whole, left.known)


def _zero(b: Builder, type_: str) -> Value:
    cell = b.alloca(type_)
    b.store(const(type_, 0.0), cell, 64)
    return cell


class _Row(msgspec.Struct):
    """The broadcast operand of one row in a block of unrolled steps."""

    b: Builder
    width: int
    operands: Operands
    row: int
    line: Value | None = None

    def broadcast(self, k: Value, u: int, count: int) -> Factors:
        """Return the element of step ``u`` of ``count`` in every lane."""
        lines, lane, dot = self.operands.lines, u % self.width, self.operands.dot
        if dot is not None:
            return dot.scalars(self.b, self.operands.scalars(self.row, k, u), self.width)
        if lines is None or u - lane + self.width > count:
            return (self.b.splat(self.operands.scalars(self.row, k, u), self.width),)
        if lane == 0:
            self.line = lines(self.row, k, u)
        assert self.line is not None, "a line is loaded at its first lane"
        return (self.b.shuffle(self.line, [lane] * self.width),)

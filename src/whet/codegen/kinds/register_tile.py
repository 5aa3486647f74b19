"""A register tile: a small product whose sums stay in registers from first to last step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.codegen.writing.builder import F32, Builder, Value, const, i64, vector

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
    """

    scalars: Operand
    vectors: Operand
    lines: Operand | None = None


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
    type_ = vector(F32, width)
    cells = [[_zero(b, type_) for _ in range(shape[1])] for _ in range(shape[0])]

    def steps(k: Value, count: int) -> None:
        sums = [[b.load(type_, cell, 64) for cell in line] for line in cells]
        rows = [_Row(b, width, operands, i) for i in range(shape[0])]
        for u in range(count):
            loaded = [operands.vectors(j, k, u) for j in range(shape[1])]
            for row, line in zip(rows, sums, strict=True):
                value = row.broadcast(k, u, count)
                for j, before in enumerate(line):
                    line[j] = b.fma(value, loaded[j], before)
        for line, targets in zip(sums, cells, strict=True):
            for value, cell in zip(line, targets, strict=True):
                b.store(value, cell, 64)

    unrolled(b, depth, steps, every)
    return [[b.load(type_, cell, 64) for cell in line] for line in cells]


def unrolled(
    b: Builder,
    depth: int | Value,
    steps: Callable[[Value, int], None],
    every: Callable[[], None] | None = None,
) -> None:
    """Write the loop over unrolled blocks of steps, and the steps that are left."""
    length = i64(depth) if isinstance(depth, int) else depth
    blocks, left = b.divide(length, UNROLL)
    whole = b.mul(blocks, i64(UNROLL))
    with b.loop(i64(0), whole, UNROLL, hint="k") as k:
        if every is not None:
            every()
        steps(k, UNROLL)
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

    def broadcast(self, k: Value, u: int, count: int) -> Value:
        """Return the element of step ``u`` of ``count`` in every lane."""
        lines, lane = self.operands.lines, u % self.width
        if lines is None or u - lane + self.width > count:
            return self.b.splat(self.operands.scalars(self.row, k, u), self.width)
        if lane == 0:
            self.line = lines(self.row, k, u)
        assert self.line is not None, "a line is loaded at its first lane"
        return self.b.shuffle(self.line, [lane] * self.width)

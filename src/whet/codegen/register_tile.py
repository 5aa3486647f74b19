"""A register tile: a small product whose sums stay in registers from first to last step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whet.codegen.builder import F32, Builder, Value, const, i64, vector

UNROLL = 4

Operand = Callable[[int, Value, int], Value]
"""``operand(i, k, u)``: element or vector ``i`` at depth ``k + u``, where ``u`` is known."""


@dataclass(frozen=True, slots=True)
class Operands:
    """What a register tile multiplies.

    Attributes:
        scalars: broadcast operand.
        vectors: vector operand.
        lines: the broadcast operand at a vector's worth of depth steps, for targets that multiply
            by a lane.
        every: called once in each unrolled block of steps, for prefetching.
    """

    scalars: Operand
    vectors: Operand
    lines: Operand | None = None
    every: Callable[[], None] | None = None


def register_tile(
    b: Builder, width: int, shape: tuple[int, int], depth: int, operands: Operands
) -> list[list[Value]]:
    """Return ``sum over depth of scalars(i) * vectors(j)`` for each row ``i`` and vector ``j``.

    Args:
        b: where to write.
        width: lanes of a vector.
        shape: rows and vectors of the tile; it must leave registers for the operands.
        depth: number of steps.
        operands: what is multiplied.
    """
    type_ = vector(F32, width)
    tile = _Tile(
        b, width, operands, [[b.alloca(type_) for _ in range(shape[1])] for _ in range(shape[0])]
    )
    tile.write([[const(type_, 0.0)] * shape[1]] * shape[0])
    whole = depth // UNROLL * UNROLL
    with b.loop(i64(0), i64(whole), UNROLL, hint="k") as k:
        if operands.every is not None:
            operands.every()
        tile.steps(k, UNROLL)
    if depth % UNROLL:
        tile.steps(i64(whole), depth % UNROLL)
    return tile.read()


@dataclass(frozen=True, slots=True)
class _Tile:
    """The sums: stack slots by row and vector, which LLVM promotes to registers."""

    b: Builder
    width: int
    operands: Operands
    cells: list[list[Value]]

    def read(self) -> list[list[Value]]:
        """Load all sums."""
        type_ = vector(F32, self.width)
        return [[self.b.load(type_, cell, 64) for cell in line] for line in self.cells]

    def write(self, sums: list[list[Value]]) -> None:
        """Store all sums."""
        for line, cells in zip(sums, self.cells, strict=True):
            for value, cell in zip(line, cells, strict=True):
                self.b.store(value, cell, 64)

    def steps(self, k: Value, count: int) -> None:
        """Write ``count`` steps from depth ``k``."""
        sums = self.read()
        shared: dict[int, Value] = {}
        for u in range(count):
            loaded = [self.operands.vectors(j, k, u) for j in range(len(sums[0]))]
            in_lanes = u - u % self.width + self.width <= count
            for i, line in enumerate(sums):
                value = self._scalar(i, k, u, shared if in_lanes else None)
                for j, before in enumerate(line):
                    line[j] = self.b.fma(value, loaded[j], before)
        self.write(sums)

    def _scalar(self, i: int, k: Value, u: int, shared: dict[int, Value] | None) -> Value:
        """Return a broadcast element, out of a vector along the depth where one is loaded."""
        if self.operands.lines is None or shared is None:
            return self.b.splat(self.operands.scalars(i, k, u), self.width)
        lane = u % self.width
        if lane == 0:
            shared[i] = self.operands.lines(i, k, u)
        return self.b.shuffle(shared[i], [lane] * self.width)

"""A register tile: a small product whose sums stay in registers from first to last step."""

from __future__ import annotations

from collections.abc import Callable

from whet.codegen.builder import F32, Builder, Value, const, i64, vector

UNROLL = 4

Operand = Callable[[int, Value, int], Value]
"""``operand(i, k, u)``: element or vector ``i`` at depth ``k + u``, where ``u`` is known."""


def register_tile(
    b: Builder,
    width: int,
    shape: tuple[int, int],
    depth: int,
    scalars: Operand,
    vectors: Operand,
    *,
    lines: Operand | None = None,
    every: Callable[[], None] | None = None,
) -> list[list[Value]]:
    """Return ``sum over depth of scalars(i) * vectors(j)`` for each row ``i`` and vector ``j``.

    Args:
        b: where to write.
        width: lanes of a vector.
        shape: rows and vectors of the tile; it must leave registers for the operands.
        depth: number of steps.
        scalars: broadcast operand.
        vectors: vector operand.
        lines: the broadcast operand at ``width`` depth steps as a vector, for targets that multiply
            by a lane.
        every: called once in each unrolled block of steps, for prefetching.
    """
    type_ = vector(F32, width)
    cells = [[b.alloca(type_) for _ in range(shape[1])] for _ in range(shape[0])]
    for line in cells:
        for cell in line:
            b.store(const(type_, 0.0), cell, 64)

    def steps(k: Value, count: int) -> None:
        sums = [[b.load(type_, cell, 64) for cell in line] for line in cells]
        shared: dict[int, Value] = {}
        for u in range(count):
            loaded = [vectors(j, k, u) for j in range(shape[1])]
            lane = u % width
            for i, line in enumerate(sums):
                if lines is None or u - lane + width > count:
                    value = b.splat(scalars(i, k, u), width)
                else:
                    shared[i] = lines(i, k, u) if lane == 0 else shared[i]
                    value = b.shuffle(shared[i], [lane] * width)
                for j, before in enumerate(line):
                    line[j] = b.fma(value, loaded[j], before)
        for line, targets in zip(sums, cells, strict=True):
            for value, cell in zip(line, targets, strict=True):
                b.store(value, cell, 64)

    whole = depth // UNROLL * UNROLL
    with b.loop(i64(0), i64(whole), UNROLL, hint="k") as k:
        if every is not None:
            every()
        steps(k, UNROLL)
    if depth % UNROLL:
        steps(i64(whole), depth % UNROLL)
    return [[b.load(type_, cell, 64) for cell in line] for line in cells]

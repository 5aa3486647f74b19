"""Blocks of a reduction: partial sums wait in scratch while other tiles take their turn.

A deep reduction over a whole panel of weights streams more than the level-2 cache holds past
every row tile. In blocks, a piece of the panel and the same columns of all rows stay near, and the
sums of a register tile are put aside after each block and taken up again at the next (decision 15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from whet.codegen.kinds.depth_steps import Cells
from whet.codegen.writing.builder import Builder, Value, const, i64
from whet.dtypes import DTYPES
from whet.kernel.spec import Contraction


class Block(msgspec.Struct, frozen=True):
    """A block of the reduction.

    Attributes:
        start: its first depth step.
        begins: whether it is the first of all.
        ends: whether it is the last of all.
    """

    start: Value
    begins: Value
    ends: Value


def slot(b: Builder, base: Value, number: Value, size: int) -> Value:
    """Return a pointer to one of several slots of ``size`` bytes."""
    return b.gep(base, "i8", b.mul(number, i64(size)))


def sum_bytes(kernel: Contraction) -> int:
    """Return the size of one partial sum."""
    return 4 if kernel.dot is not None else max(4, DTYPES[kernel.a.dtype].size)


def resume_sums(b: Builder, block: Block, sums: Value, cells: Cells) -> None:
    """Start a register tile from zero in the first block, from what was put aside in others."""

    def begin() -> None:
        for _, cell in _numbered(cells):
            b.store(const(cells.type, 0), cell, 64)

    def resume() -> None:
        for number, cell in _numbered(cells):
            b.store(b.load(cells.type, b.gep(sums, cells.type, number), 4), cell, 64)

    b.either(block.begins, begin, resume)


def keep_sums(
    b: Builder, block: Block, sums: Value, cells: Cells, *, finish: Callable[[], None]
) -> None:
    """Put a register tile's sums aside, or finish it after the last block."""

    def keep() -> None:
        for number, cell in _numbered(cells):
            b.store(b.load(cells.type, cell, 64), b.gep(sums, cells.type, number), 4)

    b.either(block.ends, finish, keep)


def _numbered(cells: Cells) -> Iterator[tuple[int, Value]]:
    return enumerate(cell for line in cells.cells for cell in line)

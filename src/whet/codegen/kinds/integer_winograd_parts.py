"""In which parts the products of a block of channels are written, with weights made in registers.

Beside the products of each part some columns of the next block are transformed, on ports that
products leave idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from whet.codegen.kinds.integer_winograd_scratch import IntegerScratch, apart_of
from whet.kernel.winograd_filtering import SIDE

TOGETHER = {(3, 5): 10, (1, 2): 8}
"""Lines of a column that are transformed together, those of ``p`` and ``-p`` sharing their sums,
and what that takes: taps read and widened, sums, and stores. Others are a tap alone."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position of a line: its column, where its sums and inputs begin, and its tiles."""

    column: int
    sums: int
    inputs: int
    tiles: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column of taps that is transformed to some lines."""

    number: int
    lines: list[int]
    instructions: int


@dataclass(frozen=True, slots=True)
class Part:
    """Positions of a line whose sums stay in registers, and what is transformed meanwhile."""

    line: int
    positions: list[Position] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)

    @property
    def idle(self) -> int:
        """Products for which nothing else is to be done."""
        return sum(p.tiles for p in self.positions) - sum(c.instructions for c in self.columns)


def columns_of(scratch: IntegerScratch) -> list[Column]:
    """Return all columns that taps are transformed to, those that take longest first."""
    return [
        Column(number, [line for line in lines if line in scratch.lines], instructions)
        for lines, instructions in TOGETHER.items()
        for number in range(SIDE)
    ]


def parts_of(scratch: IntegerScratch, room: int) -> list[Part]:
    """Return all positions, cut into those whose sums fit into some registers."""
    parts: list[Part] = []
    for line in scratch.lines:
        left = 0
        for position in _positions(scratch, line):
            if position.tiles > left:
                parts.append(Part(line))
                left = room
            parts[-1].positions.append(position)
            left -= position.tiles
    for column in columns_of(scratch):
        max(parts, key=lambda part: part.idle).columns.append(column)
    return parts


def _positions(scratch: IntegerScratch, line: int) -> Iterator[Position]:
    """Yield the positions of a line."""
    for group in scratch.groups:
        for n, (u, v) in enumerate(group.places):
            if u == line:
                sums = scratch.sum_start(group) + n * apart_of(group, scratch.sum_bytes)
                inputs = scratch.input_start(group) + n * apart_of(group, scratch.input_bytes)
                yield Position(v, sums, inputs, group.tiles)

"""Products of a Winograd convolution of integers, with taps transformed in registers.

Images of a few tiles use a transformed weight so few times that storing it takes longer. A line of
weights is made of the taps at each step, and multiplied while it is in registers; the sums of that
line's tiles stay there for a block of channels, whose taps are near for all lines (decision 28).
Where those are too many, a part of the line is done at a time, and its weights are made again.
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.kinds.integer_winograd_scratch import IntegerScratch, apart_of
from whet.codegen.kinds.integer_winograd_taps import SIDE, Taps
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import Builder, Value, i64, vector
from whet.codegen.writing.dot_product import DotProduct
from whet.kernel.integer_filtering import KINDS, TAPS, WORD


@dataclass(frozen=True, slots=True)
class _Position:
    """A position of a line: its column, where its sums and inputs begin, and its tiles."""

    column: int
    sums: int
    inputs: int
    tiles: int


@dataclass(frozen=True, slots=True)
class LineProducts:
    """Multiplies the tiles of an image by a panel, which is a vector of filters.

    Attributes:
        fn: the function being written.
        scratch: what lies where.
        taps: how taps are read.
        dot: how pairs of channels are multiplied.
        room: sums that stay in registers.
    """

    fn: Function
    scratch: IntegerScratch
    taps: Taps
    dot: DotProduct
    room: int

    @property
    def _b(self) -> Builder:
        return self.fn.b

    def multiply(self, panel: Value) -> None:
        """Multiply all tiles by a panel's taps, block by block of the channels."""
        b, block = self._b, self.scratch.block
        self.scratch.clear(b, self.fn.scratch)
        with b.loop(i64(0), i64(self.scratch.pairs), block, hint="depth") as pair:
            self.taps.begin_fetching(panel, b.add(pair, i64(block)))
            for kind in range(KINDS):
                self._line(panel, pair, kind)

    def _line(self, panel: Value, pair: Value, kind: int) -> None:
        """Multiply the lines of one point by a block of channels, and add to their sums."""
        part: list[_Position] = []
        for position in self._positions(kind):
            if sum(p.tiles for p in (*part, position)) > self.room:
                self._part(panel, pair, kind, part)
                part = []
            part.append(position)
        self._part(panel, pair, kind, part)

    def _part(self, panel: Value, pair: Value, kind: int, part: list[_Position]) -> None:
        """Multiply some positions of a line, whose sums stay in registers."""
        b, type_ = self._b, vector("i32", self.scratch.lanes)
        places = {
            (p.column, n): (self._sum(p.sums, n), p.inputs + n * self.scratch.input_bytes)
            for p in part
            for n in range(p.tiles)
        }
        unroll = self.scratch.kernel.tile.unroll
        cells = {at: b.alloca(type_) for at in places}
        for at, cell in cells.items():
            b.store(b.load(type_, places[at][0], 64), cell, 64)
        with b.loop(i64(0), i64(self.scratch.block), unroll, hint="k") as k:
            self.taps.fetch_next()
            sums = {at: b.load(type_, cell, 64) for at, cell in cells.items()}
            for u in range(unroll):
                number = b.add(pair, b.add(k, i64(u)))
                start = self.taps.place(panel, number)
                columns = [self.taps.column(start, j, TAPS[kind]) for j in range(SIDE)]
                inputs = b.gep(self.fn.scratch, "i8", b.mul(number, i64(WORD)))
                lines = (b.cast("bitcast", w, type_) for w in self.taps.along(columns))
                weights = [self.dot.vectors(b, w) for w in lines]
                for at, total in sums.items():
                    value = b.load("i32", b.gep(inputs, "i8", places[at][1]))
                    scalars = self.dot.scalars(b, value, self.scratch.lanes)
                    sums[at] = self.dot.add(b, total, scalars, weights[at[0]])
            for at, cell in cells.items():
                b.store(sums[at], cell, 64)
        for at, cell in cells.items():
            b.store(b.load(type_, cell, 64), places[at][0], 64)

    def _positions(self, kind: int) -> list[_Position]:
        """Return the positions of a line."""
        scratch = self.scratch
        found = []
        for group in scratch.groups:
            for n, (u, v) in enumerate(group.places):
                if u == kind:
                    sums = scratch.sum_start(group) + n * apart_of(group, scratch.sum_bytes)
                    inputs = scratch.input_start(group) + n * apart_of(group, scratch.input_bytes)
                    found.append(_Position(v, sums, inputs, group.tiles))
        return sorted(found, key=lambda position: position.column)

    def _sum(self, start: int, tile: int) -> Value:
        return self._b.gep(self.fn.scratch, "i8", start + tile * self.scratch.sum_bytes)

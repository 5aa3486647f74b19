"""Products of a Winograd convolution of integers, with weights made in registers.

Images of a few tiles use a transformed weight so few times that storing it takes longer. Taps are
transformed along their columns alone into scratch, a block of channels at a time; along its lines
one becomes weights where those are multiplied. The sums of a line's tiles stay in registers for
the block, or of a part of the line where they are too many (decision 28). While a block is
multiplied, the next one's columns are transformed beside it (decision 35).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.codegen.kinds.integer_winograd_parts import Column, Part, columns_of, parts_of
from whet.codegen.kinds.integer_winograd_scratch import STORED, IntegerScratch
from whet.codegen.kinds.integer_winograd_taps import Taps
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import Builder, Value, i64, vector
from whet.codegen.writing.dot_product import DotProduct
from whet.kernel.integer_filtering import WORD
from whet.kernel.winograd_filtering import SIDE


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of channels of a panel: its first pair of all panels', where its columns are."""

    first: Value
    columns: Value


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

    def begin(self, panel: Value) -> None:
        """Transform the columns of the first block of a chunk's first panel."""
        block = self._block(self._b.mul(panel, i64(self.scratch.pairs)))
        with self._b.loop(i64(0), i64(self.scratch.block), hint="columns") as k:
            self._transform(block, k, columns_of(self.scratch))

    def multiply(self, panel: Value) -> None:
        """Multiply all tiles by a panel's taps, block by block of the channels.

        The last block of all is transformed once more in its place, to what is there.
        """
        b, scratch = self._b, self.scratch
        scratch.clear(b, self.fn.scratch)
        last = i64(scratch.panels * scratch.pairs - scratch.block)
        with b.loop(i64(0), i64(scratch.pairs), scratch.block, hint="depth") as pair:
            here = self._block(b.add(b.mul(panel, i64(scratch.pairs)), pair))
            following = self._block(b.min(b.add(here.first, i64(scratch.block)), last))
            self.taps.begin_fetching(b.add(following.first, i64(scratch.block)))
            for part in parts_of(scratch, self.room):
                self._multiply_part(part, pair, here, following)

    def _block(self, first: Value) -> _Block:
        """Return a block, whose columns are not where those of the next one are."""
        b = self._b
        number, _ = b.divide(first, self.scratch.block)
        _, odd = b.divide(number, 2)
        start = b.gep(self.fn.scratch, "i8", self.scratch.weight_start)
        return _Block(first, b.gep(start, "i8", b.mul(odd, i64(self.scratch.columns_bytes))))

    def _multiply_part(self, part: Part, pair: Value, here: _Block, following: _Block) -> None:
        """Multiply some positions of a line by a block, and transform some of the next one."""
        b, type_ = self._b, vector("i32", self.scratch.lanes)
        places = {
            (p.column, n): (self._sum(p.sums, n), p.inputs + n * self.scratch.input_bytes)
            for p in part.positions
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
                step = b.add(k, i64(u))
                inputs = b.gep(self.fn.scratch, "i8", b.mul(b.add(pair, step), i64(WORD)))
                weights = self._weights(here, part.line, step)
                for at, total in sums.items():
                    value = b.load("i32", b.gep(inputs, "i8", places[at][1]))
                    scalars = self.dot.scalars(b, value, self.scratch.lanes)
                    sums[at] = self.dot.add(b, total, scalars, weights[at[0]])
                self._transform(following, step, part.columns)
            for at, cell in cells.items():
                b.store(sums[at], cell, 64)
        for at, cell in cells.items():
            b.store(b.load(type_, cell, 64), places[at][0], 64)

    def _weights(self, block: _Block, line: int, step: Value) -> list[tuple[Value, ...]]:
        """Return the weights of a line at a pair of a block's channels."""
        b, kind = self._b, vector("i16", 2 * self.scratch.lanes)
        if line in STORED:
            columns = [b.load(kind, self._column(block, line, step, j), 64) for j in range(SIDE)]
        else:
            start = self.taps.place(b.add(block.first, step))
            columns = [c for j in range(SIDE) for c in self.taps.column(start, j, [line])]
        type_ = vector("i32", self.scratch.lanes)
        lines = [b.cast("bitcast", w, type_) for w in self.taps.along(columns)]
        return [self.dot.vectors(b, w) for w in lines]

    def _transform(self, block: _Block, step: Value, columns: Sequence[Column]) -> None:
        """Transform some columns of a block's taps at a pair of channels."""
        start = self.taps.place(self._b.add(block.first, step))
        for column in columns:
            values = self.taps.column(start, column.number, column.lines)
            for line, value in zip(column.lines, values, strict=True):
                self._b.store(value, self._column(block, line, step, column.number), 64)

    def _column(self, block: _Block, line: int, step: Value, number: int) -> Value:
        """Return where a column of a line of a block is."""
        b, each = self._b, self.scratch.column_bytes
        first = STORED.index(line) * self.scratch.block * SIDE + number
        start = b.gep(block.columns, "i8", first * each)
        return b.gep(start, "i8", b.mul(step, i64(SIDE * each)))

    def _sum(self, start: int, tile: int) -> Value:
        return self._b.gep(self.fn.scratch, "i8", start + tile * self.scratch.sum_bytes)

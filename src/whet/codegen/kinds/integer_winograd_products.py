"""Products of a Winograd convolution of integers, with transformed taps in scratch.

A block of channels' taps is transformed at a time, and multiplied position by position.
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.kinds.integer_matrices import integer_transform, of_parity
from whet.codegen.kinds.integer_winograd_scratch import (
    Group,
    IntegerScratch,
    apart_of,
)
from whet.codegen.kinds.integer_winograd_taps import Taps
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.kinds.register_tile import Operands, register_tile
from whet.codegen.writing.builder import Builder, Value, i64, vector
from whet.codegen.writing.dot_product import DotProduct
from whet.codegen.writing.halves import store_scratch
from whet.kernel.integer_filtering import SHORT, TAPS, WORD
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.schedule import balanced
from whet.kernel.winograd_filtering import SIDE


@dataclass(frozen=True, slots=True)
class Products:
    """Multiplies the tiles of a chunk by a panel.

    Attributes:
        kernel: the convolution.
        fn: the function being written.
        scratch: what lies where.
        taps: how taps are read.
        dot: how pairs of channels are multiplied.
    """

    kernel: IntegerWinograd
    fn: Function
    scratch: IntegerScratch
    taps: Taps
    dot: DotProduct

    @property
    def _b(self) -> Builder:
        return self.fn.b

    @property
    def _type(self) -> str:
        return vector("i32", self.scratch.lanes)

    def begin(self, panel: Value) -> None:
        """Before a chunk's first panel nothing is to be done."""

    def multiply(self, panel: Value) -> None:
        """Multiply all tiles by a panel's taps, block by block of the channels."""
        pairs, block = self.scratch.pairs, self.scratch.block
        self.taps.begin_fetching(self._b.mul(self._b.add(panel, i64(1)), i64(pairs)))
        if block == pairs:
            self._block(panel, i64(0), adds=False)
            return
        self.scratch.clear(self._b, self.fn.scratch)
        with self._b.loop(i64(0), i64(pairs), block, hint="depth") as pair:
            self._block(panel, pair, adds=True)

    def _block(self, panel: Value, pair: Value, *, adds: bool) -> None:
        b, scratch = self._b, self.scratch
        with b.loop(i64(0), i64(scratch.block), hint="taps") as k:
            first = b.add(b.mul(panel, i64(scratch.pairs)), pair)
            start = self.taps.place(b.add(first, k))
            for j in range(self.kernel.tile.vectors):
                lane = b.add(b.mul(k, i64(scratch.panel)), i64(j * scratch.lanes))
                self._transform_taps(b.gep(start, "i8", j * 2 * scratch.lanes), lane)
        for group in scratch.groups:
            with b.loop(i64(0), i64(len(group.places)), hint="position") as number:
                start_slot = 0
                for rows, count in balanced(group.tiles, self.kernel.tile.rows):
                    stop = start_slot + rows * count
                    with b.loop(i64(start_slot), i64(stop), rows, hint="rows") as slot:
                        self._product(group, number, (slot, pair), rows, adds=adds)
                    start_slot = stop

    def _transform_taps(self, place: Value, lane: Value) -> None:
        """Transform a vector of filters' taps into scratch, each weight as soon as it is known."""
        b, scratch = self._b, self.scratch
        loaded = [self.taps.tap(place, t) for t in range(SIDE**2)]
        columns = [integer_transform(b, TAPS, loaded[j::SIDE], of_parity) for j in range(SIDE)]
        start = b.gep(b.gep(self.fn.scratch, "i8", scratch.weight_start), "i32", lane)
        number_of = {
            at: group.first + n for group in scratch.groups for n, at in enumerate(group.places)
        }
        for u, row in enumerate(zip(*columns, strict=True)):
            for v, value in enumerate(self.taps.along(row)):
                if (u, v) in number_of:
                    offset = number_of[u, v] * scratch.weight_apart
                    b.store(value, b.gep(start, "i8", offset), 64)

    def _product(
        self, group: Group, number: Value, at: tuple[Value, Value], rows: int, *, adds: bool
    ) -> None:
        """Multiply some tiles by the weights of a position, from a pair of channels on."""
        b, scratch, width = self._b, self.scratch, self.scratch.lanes
        inputs = self._place(
            scratch.input_start(group), apart_of(group, scratch.input_bytes), number
        )
        inputs = b.gep(inputs, "i8", b.mul(at[0], i64(scratch.input_bytes)))
        inputs = b.gep(inputs, "i8", b.mul(at[1], i64(2 * SHORT)))
        numbered = b.add(number, i64(group.first))
        weights = self._place(scratch.weight_start, scratch.weight_apart, numbered)
        sums = self._place(scratch.sum_start(group), apart_of(group, scratch.sum_bytes), number)
        sums = b.gep(sums, "i8", b.mul(at[0], i64(scratch.sum_bytes)))

        def scalar(i: int, k: Value, u: int) -> Value:
            place = b.gep(b.gep(inputs, "i32", k), "i8", i * scratch.input_bytes + WORD * u)
            return b.load("i32", place)

        def lane(j: int, k: Value, u: int) -> Value:
            line = b.gep(weights, "i32", b.mul(k, i64(scratch.panel)))
            return b.load(self._type, b.gep(line, "i32", u * scratch.panel + j * width), 64)

        found = register_tile(
            b,
            width,
            (rows, self.kernel.tile.vectors),
            scratch.block,
            Operands(scalar, lane, dot=self.dot, unroll=self.kernel.tile.unroll),
            every=self.taps.fetch_next,
        )
        for i, line in enumerate(found):
            for j, value in enumerate(line):
                place = b.gep(sums, "i8", i * scratch.sum_bytes + j * width * WORD)
                total = value
                if adds:
                    total = b.binary("add", b.load(self._type, place, 64), value)
                store_scratch(b, total, place)

    def _place(self, start: int, apart: int, number: Value) -> Value:
        b = self._b
        return b.gep(b.gep(self.fn.scratch, "i8", start), "i8", b.mul(number, i64(apart)))

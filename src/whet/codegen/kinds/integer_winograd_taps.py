"""Taps of a Winograd convolution of integers: where they lie, and how they are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.codegen.kinds.fetching import Stream, fetch_lines
from whet.codegen.kinds.integer_matrices import IntegerSums, of_parity
from whet.codegen.kinds.integer_winograd_scratch import IntegerScratch
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import Builder, Value, const, i64, vector
from whet.kernel.integer_filtering import TAPS
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.schedule import LINE_BYTES

SIDE = 3
"""Taps along a side of a filter."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Reads the taps of a kernel, [panels, pairs of channels, 9, panel, 2] of 8 bits.

    Attributes:
        kernel: the convolution.
        fn: the function being written.
        scratch: what lies where.
        cursor: where the next taps are fetched.
    """

    kernel: IntegerWinograd
    fn: Function
    scratch: IntegerScratch
    cursor: Value

    @property
    def _b(self) -> Builder:
        return self.fn.b

    @property
    def pair_bytes(self) -> int:
        """Bytes of the taps of a pair of channels."""
        return SIDE**2 * 2 * self.scratch.panel

    def place(self, panel: Value, pair: Value) -> Value:
        """Return where the taps of a panel begin at a pair of channels."""
        b = self._b
        number = b.add(b.mul(panel, i64(self.scratch.pairs)), pair)
        offset = b.mul(number, i64(self.pair_bytes))
        return b.gep(self.fn.params[self.kernel.weights], "i8", offset)

    def column(self, place: Value, number: int, line: Sequence[int]) -> Value:
        """Return the taps of a column of a vector of filters, transformed to one line.

        Taps without a factor are not read.
        """
        b, kind = self._b, vector("i16", 2 * self.scratch.lanes)
        taps = [
            self.tap(place, SIDE * i + number) if factor else const(kind, 0)
            for i, factor in enumerate(line)
        ]
        return IntegerSums(b, taps, of_parity).line(line)

    def tap(self, place: Value, number: int) -> Value:
        """Return a tap of a vector of filters and a pair of channels, widened."""
        b, kind = self._b, vector("i8", 2 * self.scratch.lanes)
        value = b.load(kind, b.gep(place, "i8", number * 2 * self.scratch.panel))
        return b.cast("sext", value, vector("i16", 2 * self.scratch.lanes))

    def along(self, columns: Sequence[Value]) -> list[Value]:
        """Return the weights of a line, of its columns."""
        sums = IntegerSums(self._b, columns, of_parity)
        return [sums.line(line) for line in TAPS]

    # -- fetching ----------------------------------------------------------------------------

    def begin_fetching(self, panel: Value, pair: Value) -> None:
        """Let what is fetched next be the taps of a panel from a pair of channels on."""
        self._b.store(self.place(panel, pair), self.cursor, 8)

    def fetch_first(self) -> None:
        """Bring a chunk's first taps into the second cache while tiles are transformed."""
        if self.kernel.tile.prefetch:
            lines = self.scratch.block * self.pair_bytes // LINE_BYTES
            fetch_lines(self._b, Stream(self.cursor, -(-lines // self.kernel.tiles)))

    def fetch_next(self) -> None:
        """Bring some of the next taps into the second cache, at an unrolled step."""
        fetch_lines(self._b, Stream(self.cursor, self.kernel.tile.prefetch))

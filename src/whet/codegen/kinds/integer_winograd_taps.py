"""Taps of a Winograd convolution of integers: where they lie, and how they are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.codegen.kinds.fetching import Stream, fetch_lines
from whet.codegen.kinds.integer_matrices import integer_transform, of_parity
from whet.codegen.kinds.integer_winograd_scratch import IntegerScratch
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import Builder, Value, const, i64, vector
from whet.kernel.integer_filtering import TAPS
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.winograd_filtering import SIDE


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

    def place(self, pair: Value) -> Value:
        """Return where the taps of a pair of channels begin; pairs of all panels are counted."""
        offset = self._b.mul(pair, i64(self.pair_bytes))
        return self._b.gep(self.fn.params[self.kernel.weights], "i8", offset)

    def column(self, place: Value, number: int, lines: Sequence[int]) -> list[Value]:
        """Return the taps of a column of a vector of filters, transformed to some lines.

        Taps that none of them has are not read.
        """
        b, kind = self._b, vector("i16", 2 * self.scratch.lanes)
        factors = [TAPS[line] for line in lines]
        taps = [
            self.tap(place, SIDE * i + number) if any(column) else const(kind, 0)
            for i, column in enumerate(zip(*factors, strict=True))
        ]
        return integer_transform(b, factors, taps, of_parity)

    def tap(self, place: Value, number: int) -> Value:
        """Return a tap of a vector of filters and a pair of channels, widened."""
        b, kind = self._b, vector("i8", 2 * self.scratch.lanes)
        value = b.load(kind, b.gep(place, "i8", number * 2 * self.scratch.panel))
        return b.cast("sext", value, vector("i16", 2 * self.scratch.lanes))

    def along(self, columns: Sequence[Value]) -> list[Value]:
        """Return the weights of a line, of its columns."""
        return integer_transform(self._b, TAPS, columns, of_parity)

    # -- fetching ----------------------------------------------------------------------------

    def begin_fetching(self, pair: Value) -> None:
        """Let what is fetched next be the taps from a pair of channels on."""
        self._b.store(self.place(pair), self.cursor, 8)

    def fetch_first(self) -> None:
        """Bring a chunk's first taps into the second cache while tiles are transformed."""
        if self.kernel.tile.prefetch:
            lines = self.scratch.block * self.pair_bytes // LINE_BYTES
            fetch_lines(self._b, Stream(self.cursor, -(-lines // self.kernel.tiles)))

    def fetch_next(self) -> None:
        """Bring some of the next taps into the second cache, at an unrolled step."""
        fetch_lines(self._b, Stream(self.cursor, self.kernel.tile.prefetch))

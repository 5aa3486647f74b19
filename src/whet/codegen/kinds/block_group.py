"""One group of the depth of a product with weights in blocks, for a register tile.

Codes of 4 or 8 bits are unpacked in registers and multiplied by the rows' codes, four depth values
in a lane; integer sums are scaled and added to the tile's floats. Every height of tile does the
same operations for a row in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from whet.codegen.writing.builder import F32, I32, Builder, Value, const, i64, vector
from whet.codegen.writing.dot_product import DotProduct, Factors
from whet.kernel.block_formats import GROUP, BlockFormat
from whet.kernel.blocks import (
    PANEL,
    SCALE_WORD,
    START_WORD,
    period,
    record_bytes,
    row_words,
    super_bytes,
)
from whet.kernel.schedule import LINE_BYTES

QUAD_BYTES = 4 * PANEL
LOW_HALF = 0x0F0F0F0F

Quads = Iterable[tuple[int, list[Value]]]
"""Numbers of four depth values, and their codes in each vector of columns."""


class Scales(msgspec.Struct, frozen=True):
    """What the sums of a group are multiplied by, and what is added, one for each vector."""

    scales: list[list[Value]]
    minimums: list[Value] | None


class BlockGroup(msgspec.Struct, frozen=True):
    """Writes parts of a group.

    Attributes:
        b: the function.
        kind: how weights lie.
        dot: how the target multiplies.
        width: columns in a vector.
        vectors: vectors of columns in a register tile.
    """

    b: Builder
    kind: BlockFormat
    dot: DotProduct
    width: int
    vectors: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a group of a row."""
        return 4 * row_words(self.kind.spans)

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a group of a panel."""
        return PANEL * GROUP * self.kind.bits // 8

    def fetch(self, record: Value, ahead: int, level: int) -> None:
        """Bring a record that lies some bytes ahead into the cache of a level."""
        there = self.b.gep(record, "i8", ahead)
        for line in range(-(-record_bytes(self.kind) // LINE_BYTES)):
            self.b.prefetch(self.b.gep(there, "i8", LINE_BYTES * line), level=level)

    def record(self, panel: Value, number: Value) -> tuple[Value, Value]:
        """Return where the factors of a group's scales are, and its record."""
        b, kind, every = self.b, self.kind, period(self.kind)
        block, inside = b.divide(number, every) if every > 1 else (number, i64(0))
        size = every * record_bytes(kind) + super_bytes(kind)
        head = b.gep(panel, "i8", b.mul(block, i64(size)))
        record = b.gep(head, "i8", b.mul(inside, i64(record_bytes(kind))))
        return head, b.gep(record, "i8", super_bytes(kind))

    # -- scales --------------------------------------------------------------------------------

    def factors(self, head: Value, column: int) -> list[list[Value]]:
        """Return the factors of nested scales, then of nested minimums, for each vector."""
        kind, found = self.kind, []
        if kind.nested:
            for part in range(1 + kind.minimums):
                place = self.b.gep(head, "i8", 2 * PANEL * part)
                found.append([self._half(place, column, v) for v in range(self.vectors)])
        return found

    def scales(self, record: Value, column: int, factors: list[list[Value]]) -> Scales:
        """Return the scales of each span and the minimums of a group."""
        b, kind, vectors = self.b, self.kind, range(self.vectors)
        size = PANEL * kind.scale_bytes
        places = [b.gep(record, "i8", size * k) for k in range(kind.spans + kind.minimums)]
        if not kind.nested:
            read = self._whole if kind.wide else self._half
            found = [[read(place, column, v) for v in vectors] for place in places]
        else:
            opcode = "zext" if kind.minimums else "sext"
            found = [
                [
                    b.binary("fmul", factor, self._small(place, column, v, opcode))
                    for v, factor in zip(vectors, factors[max(0, k - kind.spans + 1)], strict=True)
                ]
                for k, place in enumerate(places)
            ]
        return self.split(found)

    def split(self, found: list[list[Value]]) -> Scales:
        """Return scales, and minimums behind them, for what they are."""
        spans = self.kind.spans
        return Scales(found[:spans], found[spans] if self.kind.minimums else None)

    def _whole(self, place: Value, column: int, v: int) -> Value:
        at = self.b.gep(place, F32, column + v * self.width)
        return self.b.load(vector(F32, self.width), at, 4)

    def _half(self, place: Value, column: int, v: int) -> Value:
        b, width = self.b, self.width
        at = b.gep(place, "half", column + v * width)
        return b.cast("fpext", b.load(vector("half", width), at), vector(F32, width))

    def _small(self, place: Value, column: int, v: int, opcode: str) -> Value:
        b, width = self.b, self.width
        at = b.gep(place, "i8", column + v * width)
        wide = b.cast(opcode, b.load(vector("i8", width), at), vector(I32, width))
        return b.cast("sitofp", wide, vector(F32, width))

    # -- sums ----------------------------------------------------------------------------------

    def quads(self, codes: Value, span: int) -> Iterator[tuple[int, list[Value]]]:
        """Give the codes of a span, a byte each; those of 4 bits, ``q`` and ``q + 4``, share bytes.

        Each is unpacked right in front of its use, which keeps few registers busy.
        """
        if self.kind.bits == 4:
            b, half = self.b, GROUP // 8
            for quad in range(half):
                loaded = self.loaded(codes, quad)
                mask, four = const(loaded[0].type, LOW_HALF), const(loaded[0].type, 4)
                yield quad, [b.binary("and", w, mask) for w in loaded]
                yield (
                    quad + half,
                    [b.binary("and", b.binary("lshr", w, four), mask) for w in loaded],
                )
        else:
            yield from self.plain_quads(codes, span)

    def plain_quads(self, codes: Value, span: int) -> Iterator[tuple[int, list[Value]]]:
        """Give the codes of a span, which are bytes already."""
        count = GROUP // 4 // self.kind.spans
        for quad in range(span * count, (span + 1) * count):
            yield quad, self.loaded(codes, quad)

    def loaded(self, codes: Value, quad: int) -> list[Value]:
        """Return a vector of codes for each vector of columns."""
        b, type_ = self.b, vector(I32, self.width)
        places = (QUAD_BYTES * quad + 4 * self.width * v for v in range(self.vectors))
        return [b.load(type_, b.gep(codes, "i8", place)) for place in places]

    def sums(self, height: int, rows: Value, span: int, quads: Quads) -> list[list[Value]]:
        """Return the integer sums of a span, for each row and vector."""
        sums = self._begin(height, rows, span)
        for quad, loaded in quads:
            vectors = [self.dot.vectors(self.b, w) for w in loaded]
            self._multiply(rows, quad, vectors, sums)
        return sums

    def _begin(self, height: int, rows: Value, span: int) -> list[list[Value]]:
        """Return integer sums at what they begin from."""
        b, type_ = self.b, vector(I32, self.width)
        if not self.kind.zero:
            return [[const(type_, 0)] * self.vectors for _ in range(height)]
        starts = (self._word(rows, i, START_WORD + span, I32) for i in range(height))
        return [[b.splat(start, self.width)] * self.vectors for start in starts]

    def _word(self, rows: Value, row: int, word: int, type_: str) -> Value:
        b = self.b
        return b.load(type_, b.gep(rows, "i8", row * self.row_bytes + 4 * word), 4)

    def _multiply(
        self, rows: Value, quad: int, vectors: list[Factors], sums: list[list[Value]]
    ) -> None:
        """Add the products of four depth values of every row and vector."""
        b = self.b
        for i, line in enumerate(sums):
            scalars = self.dot.scalars(b, self._word(rows, i, quad, I32), self.width)
            for v, factor in enumerate(vectors):
                line[v] = self.dot.add(b, line[v], scalars, factor)

    def add(
        self,
        rows: Value,
        by: tuple[Scales, int],
        sums: list[list[Value]],
        cells: list[list[Value]],
    ) -> None:
        """Scale the integer sums of a span and add them to the float sums in cells."""
        b, type_ = self.b, vector(F32, self.width)
        scales, span = by
        for i, line in enumerate(cells):
            scale = b.splat(self._word(rows, i, SCALE_WORD, F32), self.width)
            for v, cell in enumerate(line):
                total = b.load(type_, cell, 4)
                factor = b.binary("fmul", scales.scales[span][v], scale)
                total = b.fma(b.cast("sitofp", sums[i][v], type_), factor, total)
                if scales.minimums is not None:
                    value = b.splat(self._word(rows, i, START_WORD, F32), self.width)
                    total = b.fma(scales.minimums[v], value, total)
                b.store(total, cell, 4)

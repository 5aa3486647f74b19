"""Many rows by a panel of weights in blocks: a stretch of its groups is unpacked for all of them.

Codes become bytes and scales floats, in scratch that stays in the first cache; every row passes by
before the next stretch comes, and its float sums wait in scratch meanwhile. With 6 rows and 32
columns in a register tile, integer and float sums are both in registers within a stretch.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.codegen.kinds.block_group import QUAD_BYTES, BlockGroup
from whet.codegen.writing.builder import F32, Builder, Value, const, i64, vector
from whet.kernel.block_formats import GROUP, BlockFormat
from whet.kernel.blocks import (
    PANEL,
    ROW_TILE,
    BlockProduct,
    record_bytes,
)

TILE_ROWS = 6
"""Rows of a register tile; divides ``ROW_TILE``."""

LEAST_ROWS = 2 * ROW_TILE
"""Fewer rows do not pay for the unpacking."""

SUM_BYTES = 4 * PANEL
"""Bytes of the float sums of a row."""


def stretch_scratch(kernel: BlockProduct) -> int:
    """Return the bytes of scratch that a thread needs: a stretch, and the sums of a chunk."""
    if not kernel.stretch:
        return 0
    return kernel.stretch * _unpacked_bytes(kernel.kind) + SUM_BYTES * (kernel.block + TILE_ROWS)


def _head_bytes(kind: BlockFormat) -> int:
    """Return the bytes of the scales and minimums of an unpacked group."""
    return 4 * PANEL * (kind.spans + kind.minimums)


def _unpacked_bytes(kind: BlockFormat) -> int:
    """Return the bytes of an unpacked group; codes that are bytes stay where they are."""
    return _head_bytes(kind) + (PANEL * GROUP if kind.bits == 4 else 0)


class Rows(msgspec.Struct, frozen=True):
    """What depends on the number of a row.

    Attributes:
        words: writes the address of its words in the first group.
        fetch: writes prefetches of what is read beside the sums of a tile that begins with it.
    """

    words: Callable[[Value], Value]
    fetch: Callable[[Value], None]


class Stretches(msgspec.Struct, frozen=True):
    """Writes the sums of many rows by a panel.

    Attributes:
        kernel: the product.
        group: writes parts of a group.
        scratch: for a stretch, and for float sums behind it.
    """

    kernel: BlockProduct
    group: BlockGroup
    scratch: Value

    @property
    def b(self) -> Builder:
        """The function that is written."""
        return self.group.b

    def sums_of(self, row: Value, start: Value) -> Value:
        """Return where the float sums of a row wait, of a chunk that begins at some row."""
        b = self.b
        first = b.gep(self.scratch, "i8", self.kernel.stretch * _unpacked_bytes(self.kernel.kind))
        return b.gep(first, "i8", b.mul(b.binary("sub nsw", row, start), i64(SUM_BYTES)))

    def write(self, panel: Value, rows: Rows, start: Value, end: Value) -> None:
        """Write the sums of the rows from ``start`` up to ``end``, whole register tiles.

        Args:
            panel: the panel's first bytes.
            rows: writes what finds the rows of a tile.
            start: the chunk's first row.
            end: where the last tile ends.
        """
        b, stretch = self.b, self.kernel.stretch
        groups = i64(self.kernel.depth // GROUP)
        with b.loop(i64(0), groups, stretch, hint="stretch") as first:
            last = b.min(b.add(first, i64(stretch)), groups)
            self._unpack(panel, first, last)
            with b.loop(start, end, TILE_ROWS, hint="tiles") as row:
                with b.when(b.icmp("eq", last, groups)):
                    rows.fetch(row)
                self._tile(panel, rows.words(row), self.sums_of(row, start), (first, last))

    # -- unpacking -----------------------------------------------------------------------------

    def _unpack(self, panel: Value, first: Value, last: Value) -> None:
        """Write scales, and codes that are no bytes yet, of a stretch into scratch."""
        b, group, kind = self.b, self.group, self.kernel.kind
        with b.loop(first, last, hint="unpack") as number:
            head, record = group.record(panel, number)
            group.fetch(record, self.kernel.stretch * record_bytes(kind), level=2)
            scales = group.scales(record, 0, group.factors(head, 0))
            to = self._unpacked(number, first)
            parts = [*scales.scales, *([scales.minimums] if scales.minimums else [])]
            for k, value in enumerate(v for part in parts for v in part):
                b.store(value, b.gep(to, F32, k * group.width), 4)
            if kind.bits == 4:
                codes = b.gep(record, "i8", record_bytes(kind) - group.code_bytes)
                self._widen(codes, b.gep(to, "i8", _head_bytes(kind)))

    def _unpacked(self, number: Value, first: Value) -> Value:
        """Return where a group of the stretch that begins with ``first`` is unpacked."""
        b, size = self.b, _unpacked_bytes(self.kernel.kind)
        return b.gep(self.scratch, "i8", b.mul(b.binary("sub nsw", number, first), i64(size)))

    def _widen(self, codes: Value, to: Value) -> None:
        """Write codes of 4 bits as bytes."""
        b, group = self.b, self.group
        for quad, vectors in group.quads(codes, 0):
            for v, value in enumerate(vectors):
                b.store(value, b.gep(to, "i8", QUAD_BYTES * quad + 4 * group.width * v), 4)

    # -- sums ----------------------------------------------------------------------------------

    def _tile(self, panel: Value, rows: Value, sums: Value, part: tuple[Value, Value]) -> None:
        """Write a register tile's share of a stretch, and fetch the sums of the next tile."""
        b, group, type_ = self.b, self.group, vector(F32, self.group.width)
        first, last = part
        cells = [[b.alloca(type_) for _ in range(group.vectors)] for _ in range(TILE_ROWS)]
        waiting = [
            [b.gep(sums, F32, i * PANEL + v * group.width) for v in range(group.vectors)]
            for i in range(TILE_ROWS)
        ]
        pairs = [
            (cell, place)
            for line, places in zip(cells, waiting, strict=True)
            for cell, place in zip(line, places, strict=True)
        ]
        begins = b.icmp("eq", first, i64(0))
        for cell, place in pairs:
            b.store(b.select(begins, const(type_, 0.0), b.load(type_, place, 4)), cell, 4)
            b.prefetch(b.gep(place, "i8", TILE_ROWS * SUM_BYTES), level=1)
        with b.loop(first, last, hint="group") as number:
            here = b.gep(rows, "i8", b.mul(number, i64(ROW_TILE * group.row_bytes)))
            self._group(panel, here, (number, first), cells)
        for cell, place in pairs:
            b.store(b.load(type_, cell, 4), place, 4)

    def _group(
        self, panel: Value, rows: Value, at: tuple[Value, Value], cells: list[list[Value]]
    ) -> None:
        """Write one group: integer sums of each span, scaled into the float sums."""
        b, group, kind = self.b, self.group, self.kernel.kind
        head = self._unpacked(*at)
        codes = b.gep(head, "i8", _head_bytes(kind))
        if kind.bits != 4:
            _, record = group.record(panel, at[0])
            codes = b.gep(record, "i8", record_bytes(kind) - group.code_bytes)
        type_ = vector(F32, group.width)
        for span in range(kind.spans):
            sums = group.sums(TILE_ROWS, rows, span, group.plain_quads(codes, span))
            parts = [
                [
                    b.load(type_, b.gep(head, F32, k * PANEL + v * group.width), 4)
                    for v in range(group.vectors)
                ]
                for k in range(kind.spans + kind.minimums)
            ]
            group.add(rows, (group.split(parts), span), sums, cells)

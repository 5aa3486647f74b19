"""Products with weights in blocks: panels of codes, integer sums, a scale for every group.

A register tile is some rows by a few vectors of columns. In each group of the depth, codes of 4 or
8 bits are unpacked in registers and multiplied by the rows' codes, four depth values in a lane; the
integer sums are then scaled and added to the tile's floats, which wait on the stack. Every height
of tile does the same operations for a row in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from whet.codegen.builder import F32, I32, Builder, Module, Value, const, i64, vector
from whet.codegen.dot_product import DotProduct, Factors, dot_product
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    lane_mask,
    open_function,
)
from whet.index import Poly, ceil_div
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import (
    PANEL,
    ROW_TILE,
    SCALE_WORD,
    START_WORD,
    BlockProduct,
    panel_bytes,
    period,
    record_bytes,
    row_words,
    super_bytes,
)
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import ACCUMULATOR
from whet.target import Target

AHEAD = 2304
"""Bytes ahead of the codes in use that are fetched."""

QUAD_BYTES = 4 * PANEL
LOW_HALF = 0x0F0F0F0F


def block_product_chunks(kernel: BlockProduct, lanes: int) -> Poly:
    """Return the number of chunks."""
    return kernel.panel_count * ceil_div(kernel.row.extent, kernel.block)


def block_product_scratch(kernel: BlockProduct, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: the sums of a register tile."""
    return 4 * kernel.heights[0] * kernel.vectors * lanes


def write_block_product(
    module: Module, name: str, kernel: BlockProduct, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a product with weights in blocks."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([], kernel.stores))
    dot = dot_product(target, signed_scalars=True)
    writer = _Writer(kernel, fn, target.lanes, dot)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Tile:
    """A register tile.

    Attributes:
        height: its rows.
        rows: the first row's words in the first group.
        panel: the panel's first bytes.
        column: first column in the panel.
    """

    height: int
    rows: Value
    panel: Value
    column: int


@dataclass(frozen=True, slots=True)
class _Scales:
    """What the sums of a group are multiplied by, and what is added, one for each vector."""

    scales: list[list[Value]]
    minimums: list[Value] | None


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: BlockProduct
    fn: Function
    width: int
    dot: DotProduct

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def row_bytes(self) -> int:
        """Bytes of a group of a row."""
        return 4 * row_words(self.kernel.kind.spans)

    # -- loops over tiles ----------------------------------------------------------------------

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write one panel and one block of rows, in register tiles from the highest down."""
        b, kernel = self.b, self.kernel
        panels = frame.scalar_index(kernel.panel_count)
        block, panel = b.binary("udiv", number, panels), b.binary("urem", number, panels)
        start, stop = self._block(frame, block)
        frame = frame.bind(kernel.col, b.mul(panel, i64(PANEL)))
        size = panel_bytes(kernel.kind, kernel.depth)
        base = b.gep(self.fn.params[kernel.panels], "i8", b.mul(panel, i64(size)))
        for height in kernel.heights:
            count = b.binary("udiv", b.binary("sub nsw", stop, start), i64(height))
            end = b.add(start, b.mul(count, i64(height)))
            with b.loop(start, end, height, hint="rows") as row:
                tile = _Tile(height, self._words(row), base, 0)
                self._columns(frame.bind(kernel.row, row), tile)
            start = end

    def _block(self, frame: Frame, number: Value) -> tuple[Value, Value]:
        """Return the first row of a block, and the one behind its last.

        All blocks but the last have as many rows, in whole tiles, so that threads end together.
        """
        b, block = self.b, self.kernel.block
        rows = frame.scalar_index(self.kernel.row.extent)
        blocks = b.divide(b.add(rows, i64(block - 1)), block)[0]
        share = b.binary("udiv", b.add(rows, b.add(blocks, i64(-1))), blocks)
        tiles = b.divide(b.add(share, i64(ROW_TILE - 1)), ROW_TILE)[0]
        size = b.mul(tiles, i64(ROW_TILE))
        start = b.min(b.mul(number, size), rows)
        return start, b.min(b.add(start, size), rows)

    def _words(self, row: Value) -> Value:
        """Return the words of a row in its first group."""
        b, kernel = self.b, self.kernel
        tile, inside = b.divide(row, ROW_TILE)
        before = b.mul(tile, i64(kernel.depth // GROUP * ROW_TILE))
        place = b.mul(b.add(before, inside), i64(self.row_bytes))
        return b.gep(self.fn.params[kernel.rows], "i8", place)

    def _columns(self, frame: Frame, tile: _Tile) -> None:
        """Write the register tiles along the columns of a panel."""
        step = self.kernel.vectors * self.width
        for column in range(0, PANEL, step):
            here = replace(tile, column=column)
            self._sums(here)
            self._store(frame, here)

    def _store(self, frame: Frame, tile: _Tile) -> None:
        """Write the stores, for whole vectors or for those of the last panel that exist."""
        b, kernel = self.b, self.kernel
        extent = kernel.col.extent.constant
        if extent is not None and extent % PANEL == 0:
            self._stores(frame, tile, None)
            return
        left = b.binary("sub nsw", frame.scalar_index(kernel.col.extent), frame.env[kernel.col])
        whole = b.icmp("sge", left, i64(PANEL))
        b.either(
            whole,
            lambda: self._stores(frame, tile, None),
            lambda: self._stores(frame, tile, left),
        )

    def _stores(self, frame: Frame, tile: _Tile, left: Value | None) -> None:
        b, kernel = self.b, self.kernel
        for i in range(tile.height):
            for v in range(kernel.vectors):
                at = tile.column + v * self.width
                mask = None
                if left is not None:
                    mask = lane_mask(b, b.binary("sub nsw", left, i64(at)), self.width)
                names = {ACCUMULATOR: b.load(vector(F32, self.width), self._cell(i, v), 4)}
                shift = {kernel.row: i, kernel.col: at}
                point = Point(frame, kernel.col, self.width, mask, shift, names)
                for store in kernel.stores:
                    point.store(store)

    def _cell(self, row: int, v: int) -> Value:
        """Return where the float sum of a row and a vector waits."""
        return self.b.gep(self.fn.scratch, F32, (row * self.kernel.vectors + v) * self.width)

    # -- the reduction -------------------------------------------------------------------------

    def _sums(self, tile: _Tile) -> None:
        """Write the loop over groups; afterwards the sums are in scratch."""
        b, kind = self.b, self.kernel.kind
        cells = self._float_cells(tile.height)
        groups = self.kernel.depth // GROUP
        every, record = period(kind), record_bytes(kind)
        with b.loop(i64(0), i64(groups // every), hint="super") as number:
            step = every * record + super_bytes(kind)
            head = b.gep(tile.panel, "i8", b.mul(number, i64(step)))
            stride = ROW_TILE * self.row_bytes
            rows = b.gep(tile.rows, "i8", b.mul(number, i64(every * stride)))
            factors = self._factors(head, tile)
            base = b.gep(head, "i8", super_bytes(kind))
            if every == 1:
                self._group(tile, base, rows, factors, cells)
            else:
                with b.loop(i64(0), i64(every), hint="group") as group:
                    here = b.gep(base, "i8", b.mul(group, i64(record)))
                    words = b.gep(rows, "i8", b.mul(group, i64(stride)))
                    self._group(tile, here, words, factors, cells)
        for i, line in enumerate(cells):
            for v, cell in enumerate(line):
                b.store(b.load(vector(F32, self.width), cell, 4), self._cell(i, v), 4)

    def _float_cells(self, height: int) -> list[list[Value]]:
        """Return where a tile's float sums are while it is computed, set to zero.

        Low tiles have them in registers, high ones in scratch, one load and store a group.
        """
        b, type_ = self.b, vector(F32, self.width)
        low = 2 * height * self.kernel.vectors <= self._spare_registers()
        cells = [
            [b.alloca(type_) if low else self._cell(i, v) for v in range(self.kernel.vectors)]
            for i in range(height)
        ]
        for cell in (cell for line in cells for cell in line):
            b.store(const(type_, 0.0), cell, 4)
        return cells

    def _spare_registers(self) -> int:
        return 20 if len(self.kernel.heights) > 3 else 8

    def _factors(self, head: Value, tile: _Tile) -> list[list[Value]]:
        """Return the factors of nested scales, then of nested minimums, for each vector."""
        kind, found = self.kernel.kind, []
        if kind.nested:
            for part in range(1 + kind.minimums):
                place = self.b.gep(head, "i8", 2 * PANEL * part)
                found.append([self._half(place, tile, v) for v in range(self.kernel.vectors)])
        return found

    def _half(self, place: Value, tile: _Tile, v: int) -> Value:
        b, width = self.b, self.width
        at = b.gep(place, "half", tile.column + v * width)
        return b.cast("fpext", b.load(vector("half", width), at), vector(F32, width))

    def _small(self, place: Value, tile: _Tile, v: int, opcode: str) -> Value:
        b, width = self.b, self.width
        at = b.gep(place, "i8", tile.column + v * width)
        wide = b.cast(opcode, b.load(vector("i8", width), at), vector(I32, width))
        return b.cast("sitofp", wide, vector(F32, width))

    def _scales(self, record: Value, tile: _Tile, factors: list[list[Value]]) -> _Scales:
        """Return the scales of each span and the minimums of a group."""
        b, kind, vectors = self.b, self.kernel.kind, range(self.kernel.vectors)
        size = PANEL * (1 if kind.nested else 2)
        places = [b.gep(record, "i8", size * k) for k in range(kind.spans + kind.minimums)]
        if not kind.nested:
            found = [[self._half(place, tile, v) for v in vectors] for place in places]
        else:
            opcode = "zext" if kind.minimums else "sext"
            found = [
                [
                    b.binary("fmul", factor, self._small(place, tile, v, opcode))
                    for v, factor in zip(vectors, factors[max(0, k - kind.spans + 1)], strict=True)
                ]
                for k, place in enumerate(places)
            ]
        return _Scales(found[: kind.spans], found[kind.spans] if kind.minimums else None)

    def _group(
        self,
        tile: _Tile,
        record: Value,
        rows: Value,
        factors: list[list[Value]],
        cells: list[list[Value]],
    ) -> None:
        """Write one group: integer sums of each span, scaled into the float sums."""
        b, kind = self.b, self.kernel.kind
        self._fetch(record)
        head = record_bytes(kind) - PANEL * GROUP * kind.bits // 8
        codes = b.gep(record, "i8", head + 4 * tile.column)
        products = self._halves if kind.bits == 4 else self._bytes
        for span in range(kind.spans):
            sums = self._begin(tile, rows, span)
            products(tile, codes, rows, span, sums)
            scales = self._scales(record, tile, factors)
            self._add(tile, rows, (scales, span), sums, cells)

    def _fetch(self, record: Value) -> None:
        ahead = self.b.gep(record, "i8", AHEAD)
        for line in range(-(-record_bytes(self.kernel.kind) // LINE_BYTES)):
            self.b.prefetch(self.b.gep(ahead, "i8", LINE_BYTES * line), level=1)

    def _begin(self, tile: _Tile, rows: Value, span: int) -> list[list[Value]]:
        """Return integer sums at what they begin from."""
        b, kind, type_ = self.b, self.kernel.kind, vector(I32, self.width)
        if not kind.zero:
            return [[const(type_, 0)] * self.kernel.vectors for _ in range(tile.height)]
        starts = (self._word(rows, i, START_WORD + span, I32) for i in range(tile.height))
        return [[b.splat(start, self.width)] * self.kernel.vectors for start in starts]

    def _word(self, rows: Value, row: int, word: int, type_: str) -> Value:
        b = self.b
        return b.load(type_, b.gep(rows, "i8", row * self.row_bytes + 4 * word), 4)

    def _bytes(
        self, tile: _Tile, codes: Value, rows: Value, span: int, sums: list[list[Value]]
    ) -> None:
        """Multiply codes of 8 bits."""
        count = GROUP // 4 // self.kernel.kind.spans
        for quad in range(span * count, (span + 1) * count):
            vectors = [self.dot.vectors(self.b, w) for w in self._loaded(codes, quad)]
            self._multiply(tile, rows, quad, vectors, sums)

    def _halves(
        self, tile: _Tile, codes: Value, rows: Value, span: int, sums: list[list[Value]]
    ) -> None:
        """Multiply codes of 4 bits: quads ``q`` and ``q + 4`` share bytes."""
        b, half = self.b, GROUP // 8
        for quad in range(half):
            loaded = self._loaded(codes, quad)
            mask = const(loaded[0].type, LOW_HALF)
            four = const(loaded[0].type, 4)
            low = [self.dot.vectors(b, b.binary("and", w, mask)) for w in loaded]
            self._multiply(tile, rows, quad, low, sums)
            high = [
                self.dot.vectors(b, b.binary("and", b.binary("lshr", w, four), mask))
                for w in loaded
            ]
            self._multiply(tile, rows, quad + half, high, sums)

    def _loaded(self, codes: Value, quad: int) -> list[Value]:
        b, type_ = self.b, vector(I32, self.width)
        places = (QUAD_BYTES * quad + 4 * self.width * v for v in range(self.kernel.vectors))
        return [b.load(type_, b.gep(codes, "i8", place)) for place in places]

    def _multiply(
        self, tile: _Tile, rows: Value, quad: int, vectors: list[Factors], sums: list[list[Value]]
    ) -> None:
        """Add the products of four depth values of every row and vector."""
        b = self.b
        for i in range(tile.height):
            scalars = self.dot.scalars(b, self._word(rows, i, quad, I32), self.width)
            for v, factor in enumerate(vectors):
                sums[i][v] = self.dot.add(b, sums[i][v], scalars, factor)

    def _add(
        self,
        tile: _Tile,
        rows: Value,
        by: tuple[_Scales, int],
        sums: list[list[Value]],
        cells: list[list[Value]],
    ) -> None:
        """Scale the integer sums of a span and add them to the float sums."""
        b, type_ = self.b, vector(F32, self.width)
        scales, span = by
        for i in range(tile.height):
            scale = b.splat(self._word(rows, i, SCALE_WORD, F32), self.width)
            for v, cell in enumerate(cells[i]):
                total = b.load(type_, cell, 4)
                factor = b.binary("fmul", scales.scales[span][v], scale)
                total = b.fma(b.cast("sitofp", sums[i][v], type_), factor, total)
                if scales.minimums is not None:
                    value = b.splat(self._word(rows, i, START_WORD, F32), self.width)
                    total = b.fma(scales.minimums[v], value, total)
                b.store(total, cell, 4)

"""Products with weights in blocks: panels of codes, integer sums, a scale for every group.

A register tile is some rows by a few vectors of columns. In each group of the depth, codes are
multiplied by the rows' codes, four depth values in a lane; the integer sums are then scaled and
added to the tile's floats, which wait in registers or in scratch. Every height of tile does the
same operations for a row in the same order.

Where a chunk has rows for several of the highest tiles, a stretch of the panel is unpacked into
scratch, all of them run over it, and then comes the next stretch: what is unpacked and what the
rows have for it are in the first cache then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from whet.codegen.block_codes import (
    Columns,
    Packed,
    PanelGroup,
    Scales,
    Unpacked,
    each_group,
    unpack,
    unpacked_bytes,
)
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
    row_words,
)
from whet.kernel.spec import ACCUMULATOR
from whet.target import Target

LEAST_TILES = 2
"""Tiles of a chunk from which on unpacking once is less work than unpacking in each."""


def block_product_chunks(kernel: BlockProduct, lanes: int) -> Poly:
    """Return the number of chunks."""
    return kernel.panel_count * ceil_div(kernel.row.extent, kernel.block)


def block_product_scratch(kernel: BlockProduct, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: float sums, and what is unpacked."""
    tile = 4 * kernel.heights[0] * kernel.vectors * lanes
    if not kernel.stretch:
        return tile
    return _sums_bytes(kernel) + kernel.stretch * unpacked_bytes(kernel.kind)


def _sums_bytes(kernel: BlockProduct) -> int:
    """Return the bytes of the float sums of a chunk."""
    return 4 * kernel.block * PANEL


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
class _Rows:
    """Rows of a chunk: the first one, and the one behind the last."""

    start: Value
    stop: Value


@dataclass(frozen=True, slots=True)
class _Tile:
    """A register tile.

    Attributes:
        height: its rows.
        rows: the first row's words in the first group.
        panel: the panel's first byte.
        columns: what it takes of the panel.
        sums: where its float sums wait.
    """

    height: int
    rows: Value
    panel: Value
    columns: Columns
    sums: Value


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

    @property
    def groups(self) -> int:
        """Groups of the depth."""
        return self.kernel.depth // GROUP

    def _columns(self, first: int) -> Columns:
        return Columns(first, self.width, self.kernel.vectors)

    # -- loops over tiles ----------------------------------------------------------------------

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write one panel and one block of rows, in register tiles from the highest down."""
        b, kernel = self.b, self.kernel
        panels = frame.scalar_index(kernel.panel_count)
        block, panel = b.binary("udiv", number, panels), b.binary("urem", number, panels)
        rows = self._block(frame, block)
        frame = frame.bind(kernel.col, b.mul(panel, i64(PANEL)))
        size = panel_bytes(kernel.kind, kernel.depth)
        base = b.gep(self.fn.params[kernel.panels], "i8", b.mul(panel, i64(size)))
        start = self._unpacked(frame, base, rows) if kernel.stretch else rows.start
        for height in kernel.heights:
            count = b.binary("udiv", b.binary("sub nsw", rows.stop, start), i64(height))
            end = b.add(start, b.mul(count, i64(height)))
            with b.loop(start, end, height, hint="rows") as row:
                tile = _Tile(height, self._words(row), base, self._columns(0), self.fn.scratch)
                self._across(frame.bind(kernel.row, row), tile)
            start = end

    def _block(self, frame: Frame, number: Value) -> _Rows:
        """Return the rows of a block: all blocks but the last have as many, in whole tiles."""
        b, block = self.b, self.kernel.block
        rows = frame.scalar_index(self.kernel.row.extent)
        blocks = b.divide(b.add(rows, i64(block - 1)), block)[0]
        share = b.binary("udiv", b.add(rows, b.add(blocks, i64(-1))), blocks)
        tiles = b.divide(b.add(share, i64(ROW_TILE - 1)), ROW_TILE)[0]
        size = b.mul(tiles, i64(ROW_TILE))
        start = b.min(b.mul(number, size), rows)
        return _Rows(start, b.min(b.add(start, size), rows))

    def _words(self, row: Value) -> Value:
        """Return the words of a row in its first group."""
        b = self.b
        tile, inside = b.divide(row, ROW_TILE)
        before = b.mul(tile, i64(self.groups * ROW_TILE))
        place = b.mul(b.add(before, inside), i64(self.row_bytes))
        return b.gep(self.fn.params[self.kernel.rows], "i8", place)

    def _across(self, frame: Frame, tile: _Tile) -> None:
        """Write the register tiles along the columns of a panel."""
        step = self.kernel.vectors * self.width
        for column in range(0, PANEL, step):
            here = replace(tile, columns=self._columns(column))
            self._sums(here)
            self._store(frame, here)

    # -- tiles over what is unpacked -----------------------------------------------------------

    def _unpacked(self, frame: Frame, panel: Value, rows: _Rows) -> Value:
        """Write the highest tiles stretch by stretch; return the first row that is left."""
        b = self.b
        whole = b.divide(b.binary("sub nsw", rows.stop, rows.start), ROW_TILE)[0]
        enough = b.icmp("sge", whole, i64(LEAST_TILES))
        end = b.select(enough, b.add(rows.start, b.mul(whole, i64(ROW_TILE))), rows.start)
        tiled = _Rows(rows.start, end)
        with b.loop(tiled.start, end, hint="clear") as row:
            for at in range(0, PANEL, self.width):
                place = b.gep(self._waiting(tiled, row), F32, at)
                b.store(const(vector(F32, self.width), 0.0), place, 4)
        with b.when(enough), b.loop(i64(0), i64(self.groups), self.kernel.stretch) as first:
            last = b.min(b.add(first, i64(self.kernel.stretch)), i64(self.groups))
            self._unpack(panel, (first, last))
            with b.loop(tiled.start, end, ROW_TILE, hint="tile") as row:
                self._over(self._high(panel, tiled, row), (first, last))
        with b.loop(tiled.start, end, ROW_TILE, hint="tile") as row:
            self._store(frame.bind(self.kernel.row, row), self._high(panel, tiled, row))
        return end

    def _waiting(self, rows: _Rows, row: Value) -> Value:
        """Return where the float sums of a row of a chunk wait."""
        b = self.b
        return b.gep(self.fn.scratch, F32, b.mul(b.binary("sub nsw", row, rows.start), i64(PANEL)))

    def _high(self, panel: Value, rows: _Rows, row: Value) -> _Tile:
        sums = self._waiting(rows, row)
        return _Tile(ROW_TILE, self._words(row), panel, self._columns(0), sums)

    def _record(self, number: Value) -> Value:
        """Return where a group of the stretch is unpacked."""
        b, kernel = self.b, self.kernel
        place = b.mul(number, i64(unpacked_bytes(kernel.kind)))
        return b.gep(self.fn.scratch, "i8", b.add(i64(_sums_bytes(kernel)), place))

    def _unpack(self, panel: Value, part: tuple[Value, Value]) -> None:
        b = self.b

        def body(number: Value, group: Packed) -> None:
            unpack(group, self._record(b.binary("sub nsw", number, part[0])))

        each_group(b, self.kernel.kind, panel, part, self._columns(0), body)

    def _over(self, tile: _Tile, part: tuple[Value, Value]) -> None:
        """Write a tile's loop over the groups of the stretch."""
        b, kernel = self.b, self.kernel
        cells = self._cells(tile)
        rows = b.gep(tile.rows, "i8", b.mul(part[0], i64(ROW_TILE * self.row_bytes)))
        with b.loop(i64(0), b.binary("sub nsw", part[1], part[0]), hint="group") as number:
            group = Unpacked(b, kernel.kind, tile.columns, self._record(number))
            words = b.gep(rows, "i8", b.mul(number, i64(ROW_TILE * self.row_bytes)))
            self._group(tile, group, words, cells)

    # -- the end -------------------------------------------------------------------------------

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
                at = tile.columns.places[v]
                mask = None
                if left is not None:
                    mask = lane_mask(b, b.binary("sub nsw", left, i64(at)), self.width)
                names = {ACCUMULATOR: b.load(vector(F32, self.width), self._cell(tile, i, v), 4)}
                shift = {kernel.row: i, kernel.col: at}
                point = Point(frame, kernel.col, self.width, mask, shift, names)
                for store in kernel.stores:
                    point.store(store)

    def _cell(self, tile: _Tile, row: int, v: int) -> Value:
        """Return where the float sum of a row and a vector waits."""
        return self.b.gep(tile.sums, F32, (row * self.kernel.vectors + v) * self.width)

    def _cells(self, tile: _Tile) -> list[list[Value]]:
        vectors = range(self.kernel.vectors)
        return [[self._cell(tile, i, v) for v in vectors] for i in range(tile.height)]

    # -- the reduction -------------------------------------------------------------------------

    def _sums(self, tile: _Tile) -> None:
        """Write the loop over all groups, packed as they are; then the sums are in scratch."""
        b = self.b
        cells = self._float_cells(tile)

        def body(number: Value, group: Packed) -> None:
            group.fetch()
            words = b.gep(tile.rows, "i8", b.mul(number, i64(ROW_TILE * self.row_bytes)))
            self._group(tile, group, words, cells)

        part = (i64(0), i64(self.groups))
        each_group(b, self.kernel.kind, tile.panel, part, tile.columns, body)
        for i, line in enumerate(cells):
            for v, cell in enumerate(line):
                b.store(b.load(vector(F32, self.width), cell, 4), self._cell(tile, i, v), 4)

    def _float_cells(self, tile: _Tile) -> list[list[Value]]:
        """Return where a tile's float sums are while it is computed, set to zero.

        Low tiles have them in registers, high ones in scratch, one load and store a group.
        """
        b, type_ = self.b, vector(F32, self.width)
        low = 2 * tile.height * self.kernel.vectors <= self._spare_registers()
        cells = self._cells(tile)
        if low:
            cells = [[b.alloca(type_) for _ in line] for line in cells]
        for cell in (cell for line in cells for cell in line):
            b.store(const(type_, 0.0), cell, 4)
        return cells

    def _spare_registers(self) -> int:
        return 20 if len(self.kernel.heights) > 3 else 8

    def _group(self, tile: _Tile, group: PanelGroup, rows: Value, cells: list[list[Value]]) -> None:
        """Write one group: integer sums of each span, scaled into the float sums."""
        for span in range(self.kernel.kind.spans):
            sums = self._begin(tile, rows, span)
            for quad, loaded in group.quads(span):
                vectors = [self.dot.vectors(self.b, w) for w in loaded]
                self._multiply(tile, rows, quad, vectors, sums)
            self._add(tile, rows, (group.scales(), span), sums, cells)

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
        by: tuple[Scales, int],
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

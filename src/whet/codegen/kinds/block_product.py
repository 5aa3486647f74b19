"""Products with weights in blocks: panels of codes, integer sums, a scale for every group.

A register tile is some rows by a few vectors of columns. Many rows go by in tiles of 6, stretch by
stretch of the depth (``block_stretch``); few rows, and what is left of many, in tiles that go
through the whole depth, highest first.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.block_group import BlockGroup
from whet.codegen.kinds.block_stretch import (
    LEAST_ROWS,
    SUM_BYTES,
    TILE_ROWS,
    Rows,
    Stretches,
    stretch_scratch,
)
from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    open_function,
)
from whet.codegen.kinds.panel_stores import PanelRows, PanelStores, rows_of_block
from whet.codegen.kinds.row_group import RowGroup
from whet.codegen.writing.builder import F32, Builder, Module, Value, const, i64, vector
from whet.codegen.writing.dot_product import dot_product
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Poly, ceil_div
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import (
    PANEL,
    ROW_TILE,
    BlockProduct,
    panel_bytes,
    period,
    record_bytes,
    super_bytes,
)
from whet.kernel.expr import Expr, Read, walk
from whet.target import Target

AHEAD = 2304
"""Bytes ahead of the codes in use that are fetched."""


def block_product_chunks(kernel: BlockProduct, lanes: int) -> Poly:
    """Return the number of chunks."""
    return kernel.panel_count * ceil_div(kernel.row.extent, kernel.block)


def block_product_scratch(kernel: BlockProduct, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: sums of a register tile, or of a chunk."""
    return max(4 * kernel.heights[0] * kernel.vectors * lanes, stretch_scratch(kernel))


def write_block_product(
    module: Module, name: str, kernel: BlockProduct, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a product with weights in blocks."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of(_results(kernel), kernel.stores))
    dot = dot_product(target, signed_scalars=True)
    group = BlockGroup(fn.b, kernel.kind, dot, target.lanes, kernel.vectors)
    writer = _Writer(kernel, fn, group)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Tile(msgspec.Struct, frozen=True):
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


class _Writer(msgspec.Struct, frozen=True):
    kernel: BlockProduct
    fn: Function
    group: BlockGroup

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def width(self) -> int:
        """Columns in a vector."""
        return self.group.width

    @property
    def stores(self) -> PanelStores | PanelRows:
        """What ends the sums."""
        kernel, end = self.kernel, self.kernel.rows_out
        if end is not None:
            group = RowGroup(self.b, self.width, end.zero, end.spans)
            return PanelRows(kernel.row, kernel.col, end, group, self.fn.params[end.output])
        return PanelStores(kernel.row, kernel.col, kernel.stores, self.width)

    # -- loops over tiles ----------------------------------------------------------------------

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write one panel and one block of rows, in register tiles from the highest down."""
        b, kernel = self.b, self.kernel
        panels = frame.scalar_index(kernel.panel_count)
        block, panel = b.binary("udiv", number, panels), b.binary("urem", number, panels)
        start, stop = rows_of_block(frame, kernel.row, kernel.block, block)
        frame = frame.bind(kernel.col, b.mul(panel, i64(PANEL)))
        size = panel_bytes(kernel.kind, kernel.depth)
        base = b.gep(self.fn.params[kernel.panels], "i8", b.mul(panel, i64(size)))
        if kernel.stretch:
            start = self._many(frame, base, start, stop)
        for height in kernel.heights:
            count = b.binary("udiv", b.binary("sub nsw", stop, start), i64(height))
            end = b.add(start, b.mul(count, i64(height)))
            with b.loop(start, end, height, hint="rows") as row:
                tile = _Tile(height, self._words(row), base, 0)
                self._columns(frame.bind(kernel.row, row), tile)
            start = end

    def _many(self, frame: Frame, panel: Value, start: Value, stop: Value) -> Value:
        """Write tiles of many rows, stretch by stretch; return the first row that is left."""
        b, kernel = self.b, self.kernel
        count = b.binary("sub nsw", stop, start)
        whole = b.mul(b.binary("udiv", count, i64(TILE_ROWS)), i64(TILE_ROWS))
        end = b.add(start, b.select(b.icmp("sge", count, i64(LEAST_ROWS)), whole, i64(0)))
        stretches = Stretches(kernel, self.group, self.fn.scratch)
        with b.when(b.icmp("slt", start, end)):
            rows = Rows(self._words, lambda row: self._fetch(frame.bind(kernel.row, row)))
            stretches.write(panel, rows, start, end)
            with b.loop(start, end, TILE_ROWS, hint="stored") as row:
                sums = stretches.sums_of(row, start)
                cells = [
                    [
                        b.gep(sums, "i8", SUM_BYTES * i + 4 * self.width * v)
                        for v in range(kernel.vectors)
                    ]
                    for i in range(TILE_ROWS)
                ]
                self.stores.write(frame.bind(kernel.row, row), cells, 0)
        return end

    def _fetch(self, frame: Frame) -> None:
        """Fetch what stores read beside sums: one line a row at a stride that nothing foresees."""
        kernel = self.kernel
        found = (e for value in _results(kernel) for e in walk(value) if isinstance(e, Read))
        reads = dict.fromkeys(found)
        for read in (r for r in reads if r.address.is_affine_in(kernel.col)):
            for i in range(TILE_ROWS):
                for column in range(0, PANEL, self.width):
                    shift = {kernel.row: i, kernel.col: column}
                    Point(frame, kernel.col, self.width, shift=shift).fetch(read)

    def _words(self, row: Value) -> Value:
        """Return the words of a row in its first group."""
        b, kernel = self.b, self.kernel
        tile, inside = b.divide(row, ROW_TILE)
        before = b.mul(tile, i64(kernel.depth // GROUP * ROW_TILE))
        place = b.mul(b.add(before, inside), i64(self.group.row_bytes))
        return b.gep(self.fn.params[kernel.rows], "i8", place)

    def _columns(self, frame: Frame, tile: _Tile) -> None:
        """Write the register tiles along the columns of a panel."""
        step = self.kernel.vectors * self.width
        for column in range(0, PANEL, step):
            self._sums(replace(tile, column=column))
            vectors = range(self.kernel.vectors)
            cells = [[self._cell(i, v) for v in vectors] for i in range(tile.height)]
            self.stores.write(frame, cells, column)

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
            stride = ROW_TILE * self.group.row_bytes
            rows = b.gep(tile.rows, "i8", b.mul(number, i64(every * stride)))
            factors = self.group.factors(head, tile.column)
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

    def _group(
        self,
        tile: _Tile,
        record: Value,
        rows: Value,
        factors: list[list[Value]],
        cells: list[list[Value]],
    ) -> None:
        """Write one group: integer sums of each span, scaled into the float sums."""
        b, kind, group = self.b, self.kernel.kind, self.group
        group.fetch(record, AHEAD, level=1)
        codes = b.gep(record, "i8", record_bytes(kind) - group.code_bytes + 4 * tile.column)
        for span in range(kind.spans):
            sums = group.sums(tile.height, rows, span, group.quads(codes, span))
            scales = group.scales(record, tile.column, factors)
            group.add(rows, (scales, span), sums, cells)


def _results(kernel: BlockProduct) -> list[Expr]:
    """Return what is made of a sum."""
    end = kernel.rows_out
    return [*(s.value for s in kernel.stores), *([] if end is None else [end.value])]

"""Contractions: the loops over chunks, blocks of the reduction, column panels and row tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.contraction_tile import Place, TileWriter
from whet.codegen.kinds.depth_blocks import Block, slot, sum_bytes
from whet.codegen.kinds.depth_steps import Columns, advanced, depth_steps
from whet.codegen.kinds.fetching import Fetching, Stream
from whet.codegen.kinds.kernel_function import (
    Function,
    bind_flat,
    frame_of,
    lane_mask,
    open_function,
)
from whet.codegen.kinds.paired_rows import PackedRows, begin_keeping, paired_scratch
from whet.codegen.kinds.paired_tile import PairedTiles
from whet.codegen.kinds.pipelined_tiles import write_pipelined
from whet.codegen.kinds.row_pieces import cheapest_height, piece_heights
from whet.codegen.kinds.tile_epilogue import product_accesses, tile_epilogue
from whet.codegen.writing.builder import I64, PTR, Builder, Module, Value, i64
from whet.codegen.writing.frame import Frame
from whet.index import ZERO, Poly, ceil_div, product
from whet.kernel.spec import Contraction
from whet.target import Target


def contraction_chunks(kernel: Contraction, lanes: int) -> Poly:
    """Return the number of chunks of a contraction."""
    return _column_blocks(kernel, lanes) * ceil_div(row_items(kernel), kernel.tile.row_items)


def _panels(kernel: Contraction, lanes: int) -> Poly:
    return ceil_div(kernel.col.extent, kernel.tile.vectors * lanes)


def _column_blocks(kernel: Contraction, lanes: int) -> Poly:
    return ceil_div(_panels(kernel, lanes), kernel.tile.panels)


def row_items(kernel: Contraction) -> Poly:
    """Return the number of register tiles of a column panel."""
    if kernel.lines is not None:
        groups = ceil_div(kernel.outer[-1].extent, kernel.lines)
        return product(a.extent for a in kernel.outer[:-1]) * groups
    tiles = ceil_div(kernel.row.extent, kernel.tile.rows)
    return product(a.extent for a in kernel.outer) * tiles


def contraction_scratch(kernel: Contraction, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: a chunk's partial sums, or its rows."""
    tile = kernel.tile
    if kernel.pairs is not None:
        return paired_scratch(kernel, lanes)
    if not tile.block:
        return 0
    sums = tile.row_items * tile.panels * _slot_rows(kernel) * tile.vectors * lanes
    return sums * sum_bytes(kernel)


def _slot_rows(kernel: Contraction) -> int:
    """Return the rows whose sums a tile may put aside: pieces overlap in run-time row counts."""
    return kernel.tile.rows * (1 if kernel.row.extent.constant is not None else 2)


def write_contraction(
    module: Module, name: str, kernel: Contraction, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a contraction."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot
    fn.b.byte_tables = target.byte_tables
    frame = frame_of(fn, kernel.params, product_accesses(kernel))
    writer = contraction_writer(kernel, fn, target)
    if kernel.pairs is not None:
        begin_keeping(fn)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


def contraction_writer(
    kernel: Contraction, fn: Function, target: Target, streams: tuple[Stream, ...] = ()
) -> ContractionWriter:
    """Return what writes the loops of a contraction into a function."""
    steps = depth_steps(kernel, fn, target)
    epilogue = tile_epilogue(kernel, fn, target)
    fetching = Fetching(fn.b, kernel, fn.b.alloca(PTR), fn.b.alloca(PTR), streams)
    later = None
    if kernel.second is not None:
        later = depth_steps(replace(kernel, a=kernel.second.a), fn, target)
    tiles = TileWriter(kernel, fn, target.lanes, steps, epilogue, fetching, later)
    return ContractionWriter(kernel, fn, target.lanes, tiles)


Write = Callable[[Frame, int, Place], None]
"""Writes something of a register tile of so many rows, the first of which is bound."""


class _Chunk(msgspec.Struct, frozen=True):
    """What a chunk covers: row tiles, column panels and a block of the reduction."""

    items: tuple[Value, Value]
    panels: tuple[Value, Value]
    block: Block | None = None


class ContractionWriter(msgspec.Struct, frozen=True):
    """Writes the loops of a contraction.

    Attributes:
        kernel: the contraction.
        fn: the function being written.
        width: lanes of a vector.
        tiles: writes its register tiles.
    """

    kernel: Contraction
    fn: Function
    width: int
    tiles: TileWriter

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    @property
    def rows(self) -> PackedRows | None:
        """The rows in scratch, where products are taken in pairs."""
        paired = self.kernel.pairs is not None
        return PackedRows(self.kernel, self.fn, self.width) if paired else None

    @property
    def panel_columns(self) -> int:
        """Columns of a panel."""
        return self.kernel.tile.vectors * self.width

    # -- loops over tiles --------------------------------------------------------------------

    def all_rows(self, frame: Frame, panels: tuple[Value, Value] | None = None) -> None:
        """Write the loops over all row tiles, as many together as a chunk has, and some panels.

        Args:
            frame: the point of the outer axes.
            panels: the first panel and the one behind the last, ``None`` for all.
        """
        b, together = self.b, self.kernel.tile.row_items
        items = frame.scalar_index(row_items(self.kernel))
        if panels is None:
            panels = i64(0), frame.scalar_index(_panels(self.kernel, self.width))
        with b.loop(i64(0), items, together, hint="group") as first:
            last = b.min(b.add(first, i64(together)), items)
            self._panels(frame, _Chunk((first, last), panels))

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write the loops over one chunk's panels and row tiles."""
        b, tile = self.b, self.kernel.tile
        if self.kernel.ahead is not None:
            self.tiles.fetching.begin_chunk(chunk, self.fn.params[self.kernel.ahead.param])
        items = frame.scalar_index(row_items(self.kernel))
        row_blocks = frame.scalar_index(ceil_div(row_items(self.kernel), tile.row_items))
        panels = frame.scalar_index(_panels(self.kernel, self.width))
        if tile.by_rows:
            column_blocks = frame.scalar_index(_column_blocks(self.kernel, self.width))
            row_block = b.binary("udiv", chunk, column_blocks)
            column_block = b.binary("urem", chunk, column_blocks)
        else:
            column_block = b.binary("udiv", chunk, row_blocks)
            row_block = b.binary("urem", chunk, row_blocks)
        first = b.mul(row_block, i64(tile.row_items))
        last = b.min(b.add(first, i64(tile.row_items)), items)
        panel_first = b.mul(column_block, i64(tile.panels))
        panel_last = b.min(b.add(panel_first, i64(tile.panels)), panels)
        chunk_of = _Chunk((first, last), (panel_first, panel_last))
        if self.rows is not None:
            self._pack(frame, row_block, chunk_of)
        if not tile.block:
            self._panels(frame, chunk_of)
            return
        depth = self.kernel.depth.extent.constant
        assert depth is not None and depth % tile.block == 0, "blocks divide a known depth"
        count = product(t.extent for t in self.kernel.taps) * (depth // tile.block)
        with b.loop(i64(0), frame.scalar_index(count), hint="block") as number:
            tap, rest = b.divide(number, depth // tile.block)
            inner = bind_flat(frame, self.kernel.taps, tap)
            final = b.binary("sub", frame.scalar_index(count), i64(1))
            block = Block(
                b.mul(rest, i64(tile.block)),
                b.icmp("eq", number, i64(0)),
                b.icmp("eq", number, final),
            )
            self._panels(inner, replace(chunk_of, block=block))

    def _panels(self, frame: Frame, chunk: _Chunk) -> None:
        """Write the loop over column panels, each in full form or that of a partial last one."""
        b = self.b
        if self.kernel.tile.pipelined:
            write_pipelined(frame, self.kernel, self.tiles, chunk.items, chunk.panels)
            return
        with b.loop(*chunk.panels, hint="panel") as panel:
            self._panel(frame, panel, chunk)

    def _panel(self, frame: Frame, panel: Value, chunk: _Chunk) -> None:
        b = self.b
        full = Columns(self.kernel.tile.vectors, (None,) * self.kernel.tile.vectors)
        extent = self.kernel.col.extent.constant
        if extent is not None and extent % self.panel_columns == 0:
            self._items(frame, panel, full, chunk)
            return
        if extent is not None and extent < self.panel_columns:
            self._items(frame, panel, self._tail(frame, panel), chunk)
            return
        yes, no, done = b.label("whole"), b.label("part"), b.label("next")
        end = b.mul(b.add(panel, i64(1)), i64(self.panel_columns))
        b.branch(b.icmp("sle", end, frame.scalar_index(self.kernel.col.extent)), yes, no)
        b.start(yes)
        self._items(frame, panel, full, chunk)
        b.jump(done)
        b.start(no)
        self._items(frame, panel, self._tail(frame, panel), chunk)
        b.jump(done)
        b.start(done)

    def _tail(self, frame: Frame, panel: Value) -> Columns:
        """Return the vectors of the last panel; known at compile time for static columns."""
        b, width = self.b, self.width
        extent = self.kernel.col.extent.constant
        if extent is not None:
            rest = extent % self.panel_columns
            count = -(-rest // width)
            partial = rest % width
            last = lane_mask(b, i64(partial), width) if partial else None
            return Columns(count, (*(None,) * (count - 1), last))
        left = b.binary(
            "sub", frame.scalar_index(self.kernel.col.extent), b.mul(panel, i64(self.panel_columns))
        )
        masks = tuple(
            lane_mask(b, b.binary("sub", left, i64(j * width)), width)
            for j in range(self.kernel.tile.vectors)
        )
        return Columns(self.kernel.tile.vectors, masks)

    def _items(self, frame: Frame, panel: Value, columns: Columns, chunk: _Chunk) -> None:
        """Write the loop over row tiles of a chunk."""
        b, kernel = self.b, self.kernel
        frame = frame.bind(kernel.col, b.mul(panel, i64(self.panel_columns)))
        if kernel.tile.prefetch:
            self.tiles.fetching.begin_panel(self._following(frame, panel, chunk))
        with b.loop(*chunk.items, hint="item") as item:
            sums, packed = self._sums(panel, item, chunk), self._packed(item, chunk)
            place = Place(panel, columns, chunk.block, sums, packed)
            self._item(frame, item, place, self._write_tile)

    def _item(self, frame: Frame, item: Value, place: Place, write: Write) -> None:
        """Write something of the register tile of a number."""
        b, kernel = self.b, self.kernel
        tiles = ceil_div(kernel.row.extent, kernel.tile.rows)
        if kernel.lines is not None:
            self._lines(frame, item, place, write)
        elif tiles == 1:
            self._tile(bind_flat(frame, kernel.outer, item), i64(0), place, write)
        elif not kernel.outer:
            self._tile(frame, item, place, write)
        else:
            count = frame.scalar_index(tiles)
            inner = bind_flat(frame, kernel.outer, b.binary("udiv", item, count))
            self._tile(inner, b.binary("urem", item, count), place, write)

    def _write_tile(self, frame: Frame, rows: int, place: Place) -> None:
        """Write the products of a register tile."""
        if self.rows is None:
            self.tiles.write(frame, rows, place)
            return
        PairedTiles(self.kernel, self.fn, self.width, self.tiles).write(frame, rows, place)

    def _pack(self, frame: Frame, row_block: Value, chunk: _Chunk) -> None:
        """Write the rows of a chunk to scratch, where the chunk before has not left them."""
        b, rows = self.b, self.rows
        assert rows is not None, "products are taken in pairs"
        kept = self.fn.scratch
        with b.when(b.icmp("ne", row_block, b.load(I64, kept, 8))):
            b.store(row_block, kept, 8)
            with b.loop(*chunk.items, hint="pack") as item:
                slot_ = self._packed(item, chunk)
                assert slot_ is not None
                place = Place(i64(0), Columns(1, (None,)), None, None, slot_)
                self._item(frame, item, place, lambda f, n, p: rows.write(f, n, slot_))

    def _packed(self, item: Value, chunk: _Chunk) -> Value | None:
        """Return where the rows of a register tile wait in scratch."""
        if self.rows is None:
            return None
        return self.rows.slot(self.b.binary("sub", item, chunk.items[0]))

    def _lines(self, frame: Frame, item: Value, place: Place, write: Write) -> None:
        """Write something of a tile of several whole lines, or of those left at the end."""
        b, kernel = self.b, self.kernel
        total, length = kernel.outer[-1].extent.constant, kernel.row.extent.constant
        assert kernel.lines and total is not None and length is not None, "lines are known"
        whole, left = divmod(total, kernel.lines)
        rest, group = b.divide(item, whole + (left > 0))
        inner = bind_flat(frame, kernel.outer[:-1], rest)
        inner = inner.bind(kernel.outer[-1], b.mul(group, i64(kernel.lines)))
        inner = inner.bind(kernel.row, i64(0))
        all_lines = partial(write, inner, kernel.lines * length, place)
        if not left:
            all_lines()
            return
        few = partial(write, inner, left * length, place)
        b.either(b.icmp("slt", group, i64(whole)), all_lines, few)

    def _sums(self, panel: Value, item: Value, chunk: _Chunk) -> Value | None:
        """Return where the partial sums of a register tile wait in scratch."""
        if chunk.block is None:
            return None
        b, tile = self.b, self.kernel.tile
        column = b.binary("sub", panel, chunk.panels[0])
        row = b.binary("sub", item, chunk.items[0])
        number = b.add(b.mul(column, i64(tile.row_items)), row)
        return slot(b, self.fn.scratch, number, _slot_rows(self.kernel) * self._line)

    @property
    def _line(self) -> int:
        """Bytes of the sums of one row of a register tile."""
        return self.kernel.tile.vectors * self.width * sum_bytes(self.kernel)

    def _following(self, frame: Frame, panel: Value, chunk: _Chunk) -> Value:
        """Return where the panel begins that is read after this one."""
        b, block = self.b, chunk.block
        following = self.tiles.panel(frame, b.add(panel, i64(1)), ZERO)
        if block is None:
            return following
        following = self.tiles.at_taps(frame, advanced(frame, self.kernel, following, block.start))
        first = self.tiles.at_taps(frame, self.tiles.panel(frame, chunk.panels[0], ZERO))
        next_start = b.add(block.start, i64(self.kernel.tile.block))
        first = advanced(frame, self.kernel, first, next_start)
        ends = b.icmp("eq", b.add(panel, i64(1)), chunk.panels[1])
        return b.select(ends, first, following)

    def _tile(self, frame: Frame, tile: Value, place: Place, write: Write) -> None:
        """Write something of one row tile, in each size that occurs."""
        rows = self.kernel.row.extent.constant
        if rows is None:
            self._symbolic_tile(frame, tile, place)
            return
        b = self.b
        count = -(-rows // self.kernel.tile.rows)
        size, larger = divmod(rows, count)
        if not larger:
            start = b.mul(tile, i64(size))
            write(frame.bind(self.kernel.row, start), size, place)
            return
        start = b.add(b.mul(tile, i64(size)), b.min(tile, i64(larger)))
        bound = frame.bind(self.kernel.row, start)
        yes, no, done = b.label("large"), b.label("small"), b.label("tiled")
        b.branch(b.icmp("slt", tile, i64(larger)), yes, no)
        for label, height in ((yes, size + 1), (no, size)):
            b.start(label)
            write(bound, height, place)
            b.jump(done)
        b.start(done)

    def _symbolic_tile(self, frame: Frame, tile: Value, place: Place) -> None:
        """Write a tile of a run-time row count in the cheapest of a few heights.

        The last piece begins early enough to be whole: rows that two pieces share are computed
        twice, to the same bits. Rows are dealt out evenly among the tiles.
        """
        b, height = self.b, self.kernel.tile.rows
        rows = frame.scalar_index(self.kernel.row.extent)
        tiles = frame.scalar_index(ceil_div(self.kernel.row.extent, height))
        base, larger = b.binary("udiv", rows, tiles), b.binary("urem", rows, tiles)
        start = b.add(b.mul(tile, base), b.min(tile, larger))
        size = b.add(base, b.cast("zext", b.icmp("slt", tile, larger), I64))
        stop = b.add(start, size)
        chosen = cheapest_height(b, height, size, rows)
        for pieces in piece_heights(height):
            with (
                b.when(b.icmp("eq", chosen, i64(pieces))),
                b.loop(start, stop, pieces, hint="rows") as at,
            ):
                row = b.min(at, b.binary("sub", rows, i64(pieces)))
                sums = place.sums
                if sums is not None:
                    sums = slot(b, sums, b.binary("sub", at, start), self._line)
                bound = frame.bind(self.kernel.row, row)
                self.tiles.write(bound, pieces, replace(place, sums=sums))

"""Contractions: a register tile of accumulators, one broadcast operand, one vector operand.

The tile lives in ``rows x vectors`` registers. Each depth step loads ``vectors`` vectors of ``b``
and broadcasts one element of ``a`` per row. Taps stay loops: unrolled, LLVM would share overlapping
loads across taps, run out of registers and spill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from whet.codegen.builder import PTR, Builder, Module, Value, const, i64, vector
from whet.codegen.depth_blocks import Block, keep_sums, resume_sums, slot, sum_bytes
from whet.codegen.depth_steps import Cells, Columns, DepthSteps, Run, advanced, depth_steps
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    lane_mask,
    open_function,
    tap_range,
)
from whet.codegen.operations import storage_type
from whet.index import ZERO, Poly, ceil_div, product
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import ACCUMULATOR, Contraction
from whet.target import Target


def contraction_chunks(kernel: Contraction, lanes: int) -> Poly:
    """Return the number of chunks of a contraction."""
    return _column_blocks(kernel, lanes) * ceil_div(_row_items(kernel), kernel.tile.row_items)


def _panels(kernel: Contraction, lanes: int) -> Poly:
    return ceil_div(kernel.col.extent, kernel.tile.vectors * lanes)


def _column_blocks(kernel: Contraction, lanes: int) -> Poly:
    return ceil_div(_panels(kernel, lanes), kernel.tile.panels)


def _row_items(kernel: Contraction) -> Poly:
    tiles = ceil_div(kernel.row.extent, kernel.tile.rows)
    return product(a.extent for a in kernel.outer) * tiles


def contraction_scratch(kernel: Contraction, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: the partial sums of a chunk."""
    tile = kernel.tile
    if not tile.block:
        return 0
    sums = tile.row_items * tile.panels * tile.rows * tile.vectors * lanes
    return sums * sum_bytes(kernel)


def write_contraction(
    module: Module, name: str, kernel: Contraction, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a contraction."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    steps = depth_steps(kernel, fn, target)
    writer = _Writer(kernel, fn, target.lanes, fn.b.alloca(PTR), steps)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a chunk covers: row tiles, column panels and a block of the reduction."""

    items: tuple[Value, Value]
    panels: tuple[Value, Value]
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a register tile is: the panel, its columns, and where its partial sums wait."""

    panel: Value
    columns: Columns
    block: Block | None
    sums: Value | None


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: Contraction
    fn: Function
    width: int
    cursor: Value
    steps: DepthSteps

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def panel_columns(self) -> int:
        return self.kernel.tile.vectors * self.width

    # -- loops over tiles --------------------------------------------------------------------

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write the loops over one chunk's panels and row tiles."""
        b, tile = self.b, self.kernel.tile
        items = frame.scalar_index(_row_items(self.kernel))
        row_blocks = frame.scalar_index(ceil_div(_row_items(self.kernel), tile.row_items))
        panels = frame.scalar_index(_panels(self.kernel, self.width))
        column_block = b.binary("udiv", chunk, row_blocks)
        first = b.mul(b.binary("urem", chunk, row_blocks), i64(tile.row_items))
        last = b.min(b.add(first, i64(tile.row_items)), items)
        panel_first = b.mul(column_block, i64(tile.panels))
        panel_last = b.min(b.add(panel_first, i64(tile.panels)), panels)
        chunk_of = _Chunk((first, last), (panel_first, panel_last))
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
            b.store(self._following(frame, panel, chunk), self.cursor, 8)
        tiles = ceil_div(kernel.row.extent, kernel.tile.rows)
        with b.loop(*chunk.items, hint="item") as item:
            place = _Place(panel, columns, chunk.block, self._sums(panel, item, chunk))
            if tiles == 1:
                self._tile(bind_flat(frame, kernel.outer, item), i64(0), place)
            elif not kernel.outer:
                self._tile(frame, item, place)
            else:
                count = frame.scalar_index(tiles)
                inner = bind_flat(frame, kernel.outer, b.binary("udiv", item, count))
                self._tile(inner, b.binary("urem", item, count), place)

    def _sums(self, panel: Value, item: Value, chunk: _Chunk) -> Value | None:
        """Return where the partial sums of a register tile wait in scratch."""
        if chunk.block is None:
            return None
        b, tile = self.b, self.kernel.tile
        column = b.binary("sub", panel, chunk.panels[0])
        row = b.binary("sub", item, chunk.items[0])
        number = b.add(b.mul(column, i64(tile.row_items)), row)
        return slot(b, self.fn.scratch, number, tile.rows * self._line)

    @property
    def _line(self) -> int:
        """Bytes of the sums of one row of a register tile."""
        return self.kernel.tile.vectors * self.width * sum_bytes(self.kernel)

    def _following(self, frame: Frame, panel: Value, chunk: _Chunk) -> Value:
        """Return where the panel begins that is read after this one."""
        b, block = self.b, chunk.block
        following = self._b_pointer(frame, b.add(panel, i64(1)), ZERO)
        if block is None:
            return following
        following = self._at_taps(frame, advanced(frame, self.kernel, following, block.start))
        first = self._at_taps(frame, self._b_pointer(frame, chunk.panels[0], ZERO))
        next_start = b.add(block.start, i64(self.kernel.tile.block))
        first = advanced(frame, self.kernel, first, next_start)
        ends = b.icmp("eq", b.add(panel, i64(1)), chunk.panels[1])
        return b.select(ends, first, following)

    def _at_taps(self, frame: Frame, pointer: Value) -> Value:
        """Return a pointer to the vector operand moved to the taps that are bound."""
        b, source = self.b, self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        for tap, stride in zip(self.kernel.taps, source.tap_strides, strict=True):
            pointer = b.gep(pointer, kind, b.mul(frame.env[tap], frame.scalar_index(stride)))
        return pointer

    def _tile(self, frame: Frame, tile: Value, place: _Place) -> None:
        """Write one row tile in each size that occurs."""
        rows = self.kernel.row.extent.constant
        if rows is None:
            self._symbolic_tile(frame, tile, place)
            return
        b = self.b
        count = -(-rows // self.kernel.tile.rows)
        size, larger = divmod(rows, count)
        if not larger:
            start = b.mul(tile, i64(size))
            self._micro(frame.bind(self.kernel.row, start), size, place)
            return
        start = b.add(b.mul(tile, i64(size)), b.min(tile, i64(larger)))
        bound = frame.bind(self.kernel.row, start)
        yes, no, done = b.label("large"), b.label("small"), b.label("tiled")
        b.branch(b.icmp("slt", tile, i64(larger)), yes, no)
        for label, height in ((yes, size + 1), (no, size)):
            b.start(label)
            self._micro(bound, height, place)
            b.jump(done)
        b.start(done)

    def _symbolic_tile(self, frame: Frame, tile: Value, place: _Place) -> None:
        """Write a tile of a run-time row count: whole, or its rest in fours and ones."""
        b, height = self.b, self.kernel.tile.rows
        first = start = b.mul(tile, i64(height))
        stop = b.min(b.add(start, i64(height)), frame.scalar_index(self.kernel.row.extent))
        for size in sorted({height, min(4, height), 1}, reverse=True):
            length = b.binary("sub", stop, start)
            end = b.add(start, b.mul(b.binary("udiv", length, i64(size)), i64(size)))
            with b.loop(start, end, size, hint="rows") as row:
                sums = place.sums
                if sums is not None:
                    sums = slot(b, sums, b.binary("sub", row, first), self._line)
                bound = frame.bind(self.kernel.row, row)
                self._micro(bound, size, replace(place, sums=sums))
            start = end

    # -- the register tile -------------------------------------------------------------------

    def _micro(self, frame: Frame, rows: int, place: _Place) -> None:
        b, kernel, columns = self.b, self.kernel, place.columns
        type_ = vector(self.steps.accumulator, self.width)
        slots = [[b.alloca(type_) for _ in range(columns.vectors)] for _ in range(rows)]
        cells = Cells(slots, type_, columns)
        base = self._b_pointer(frame, place.panel, kernel.b.base)
        if place.block is None or place.sums is None:
            for cell in (cell for line in slots for cell in line):
                b.store(const(type_, 0), cell, 64)
            self._taps(frame, base, 0, cells)
            self._epilogue(frame, cells)
            return
        resume_sums(b, place.block, place.sums, cells)
        self._block(frame, base, place.block, cells)
        finish = partial(self._epilogue, frame, cells)
        keep_sums(b, place.block, place.sums, cells, finish=finish)

    def _epilogue(self, frame: Frame, cells: Cells) -> None:
        """Write the stores, which read the sums."""
        b, kernel = self.b, self.kernel
        for i, line in enumerate(cells.cells):
            for j, cell in enumerate(line):
                shift = {kernel.row: i, kernel.col: j * self.width}
                names = {ACCUMULATOR: b.load(cells.type, cell, 64)}
                point = Point(frame, kernel.col, self.width, cells.columns.masks[j], shift, names)
                for store in kernel.stores:
                    point.store(store)

    def _b_pointer(self, frame: Frame, panel: Value, base: Poly) -> Value:
        b, source = self.b, self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        step = b.mul(panel, frame.scalar_index(source.panel_stride))
        return b.gep(self.fn.params[source.param], kind, b.add(step, frame.scalar_index(base)))

    def _taps(self, frame: Frame, b_pointer: Value, position: int, cells: Cells) -> None:
        """Write the loops over taps, shortened where ``a`` would be read outside its bounds."""
        b, kernel = self.b, self.kernel
        if position == len(kernel.taps):
            self._depth(frame, b_pointer, cells)
            return
        tap = kernel.taps[position]
        low, high = tap_range(frame, tap, self.kernel.bounds)
        kind = storage_type(kernel.params[kernel.b.param].dtype)
        stride = frame.scalar_index(kernel.b.tap_strides[position])
        with b.loop(low, high, hint="tap") as value:
            moved = b.gep(b_pointer, kind, b.mul(value, stride))
            self._taps(frame.bind(tap, value), moved, position + 1, cells)

    def _block(self, frame: Frame, b_pointer: Value, block: Block, cells: Cells) -> None:
        """Write one block of the reduction, nothing where a tap reads outside of ``a``."""
        b, kernel, unroll = self.b, self.kernel, self.kernel.tile.unroll
        pointer = self._at_taps(frame, b_pointer)
        end = b.add(block.start, i64(kernel.tile.block))
        for tap in kernel.taps:
            low, high = tap_range(frame, tap, kernel.bounds)
            inside = b.icmp("sle", low, frame.env[tap]), b.icmp("slt", frame.env[tap], high)
            for holds in inside:
                end = b.select(holds, end, block.start)
        rows = self._row_pointers(frame, len(cells.cells))
        with b.loop(block.start, end, unroll, hint="depth") as k:
            self._at(frame, k, pointer, rows, (unroll, False), cells)

    def _depth(self, frame: Frame, b_pointer: Value, cells: Cells) -> None:
        """Write the innermost reduction, unrolled."""
        b, kernel = self.b, self.kernel
        unroll = kernel.tile.unroll
        extent = kernel.depth.extent.constant
        rows = self._row_pointers(frame, len(cells.cells))
        if extent is not None and extent <= unroll:
            self._at(frame, i64(0), b_pointer, rows, (extent, True), cells)
            return
        length = frame.scalar_index(kernel.depth.extent)
        full = (
            i64((extent - self.steps.rest) // unroll * unroll)
            if extent is not None
            else b.binary("and", length, i64(-unroll))
        )
        with b.loop(i64(0), full, unroll, hint="depth") as k:
            self._at(frame, k, b_pointer, rows, (unroll, False), cells)
        if extent is not None:
            if extent > (full.known or 0):
                count = extent - (full.known or 0)
                self._at(frame, full, b_pointer, rows, (count, True), cells)
            return
        with b.loop(full, length, hint="rest") as k:
            self._at(frame, k, b_pointer, rows, (1, False), cells)

    def _row_pointers(self, frame: Frame, count: int) -> list[Value] | None:
        """Return a pointer per row where rows may lie outside ``a``; those outside see zeros."""
        kernel = self.kernel
        if not kernel.edges:
            return None
        zeros = self.fn.params[kernel.zeros]
        start = frame.bind(kernel.depth, i64(0))
        found = []
        for i in range(count):
            point = Point(start, shift={kernel.row: i})
            inside = point.pointer(kernel.a)
            found.append(self.b.select(point.holds(kernel.edges), inside, zeros))
        return found

    def _at(
        self,
        frame: Frame,
        k: Value,
        b_pointer: Value,
        rows: list[Value] | None,
        run: Run,
        cells: Cells,
    ) -> None:
        """Write a run of depth steps from depth ``k``."""
        moved = advanced(frame, self.kernel, b_pointer, k)
        if self.kernel.tile.prefetch and run[0] == self.kernel.tile.unroll:
            self._fetch_ahead()
        if rows is not None:
            kind = storage_type(self.kernel.a.dtype)
            rows = [self.b.gep(r, kind, k) for r in rows]
        self.steps.write(frame.bind(self.kernel.depth, k), moved, rows, run, cells)

    def _fetch_ahead(self) -> None:
        """Fetch the next lines of the panel after this one."""
        b = self.b
        at = b.load(PTR, self.cursor, 8)
        for line in range(self.kernel.tile.prefetch):
            b.prefetch(b.gep(at, "i8", LINE_BYTES * line))
        b.store(b.gep(at, "i8", LINE_BYTES * self.kernel.tile.prefetch), self.cursor, 8)

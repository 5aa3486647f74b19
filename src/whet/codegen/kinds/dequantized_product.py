"""Products of float rows and weights in blocks: dequantised in registers, or into scratch.

With few rows a product waits for its weights: each vector of codes becomes floats in registers and
is multiplied by all rows of the tile. Many rows pass by a stretch of a panel that was dequantised
into the first cache; their own values of the stretch lie one row behind the other in scratch, as
rows at a large power of two all fall into one set of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from whet.codegen.kinds.block_group import LOW_HALF, BlockGroup
from whet.codegen.kinds.kernel_function import Function, accesses_of, frame_of, open_function
from whet.codegen.kinds.panel_stores import PanelStores, rows_of_block
from whet.codegen.kinds.register_tile import Operands, register_tile
from whet.codegen.writing.builder import F32, Builder, Module, Value, const, i64, vector
from whet.codegen.writing.dot_product import dot_product
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Poly, ceil_div
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import PANEL, panel_bytes, record_bytes
from whet.kernel.dequantized import STRETCH, DequantizedProduct
from whet.target import Target

AHEAD = 2304
"""Bytes ahead of the codes in use that are fetched."""

DEEP = STRETCH * GROUP
"""Depth values of a stretch."""


def dequantized_chunks(kernel: DequantizedProduct, lanes: int) -> Poly:
    """Return the number of chunks."""
    across = ceil_div(kernel.panel_count, kernel.together)
    return across * ceil_div(kernel.row.extent, kernel.block)


def dequantized_scratch(kernel: DequantizedProduct, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: weights and rows of a stretch, sums."""
    return 4 * (DEEP * (PANEL + kernel.block) + kernel.together * kernel.block * PANEL)


def write_dequantized(
    module: Module, name: str, kernel: DequantizedProduct, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a product of float rows and weights in blocks."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([kernel.x], kernel.stores))
    group = BlockGroup(fn.b, kernel.kind, dot_product(target), target.lanes, kernel.vectors)
    writer = _Writer(kernel, fn, group, target.lane_fma)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Chunk(msgspec.Struct, frozen=True):
    """What a chunk covers: from the first row and panel to those behind the last."""

    start: Value
    stop: Value
    panels: tuple[Value, Value]


class _Writer(msgspec.Struct, frozen=True):
    kernel: DequantizedProduct
    fn: Function
    group: BlockGroup
    lane_fma: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def width(self) -> int:
        """Columns in a vector."""
        return self.group.width

    @property
    def type(self) -> str:
        return vector(F32, self.width)

    @property
    def groups(self) -> int:
        """Groups of the depth."""
        return (self.kernel.depth.extent.constant or 0) // GROUP

    @property
    def columns(self) -> range:
        """The first column of each register tile across a panel."""
        return range(0, PANEL, self.kernel.vectors * self.width)

    # -- loops over panels and rows ------------------------------------------------------------

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write some panels and a block of rows: whole tiles of many rows, then the others."""
        b, kernel = self.b, self.kernel
        parts = frame.scalar_index(ceil_div(kernel.panel_count, kernel.together))
        block, part = b.binary("udiv", number, parts), b.binary("urem", number, parts)
        first = b.mul(part, i64(kernel.together))
        last = b.min(b.add(first, i64(kernel.together)), frame.scalar_index(kernel.panel_count))
        start, stop = rows_of_block(frame, kernel.row, kernel.block, block)
        chunk = _Chunk(start, stop, (first, last))
        start = self._many(frame, chunk)
        with b.loop(first, last, hint="panel") as panel:
            self._few(self._at_panel(frame, panel), self._panel(panel), start, stop)

    def _at_panel(self, frame: Frame, panel: Value) -> Frame:
        return frame.bind(self.kernel.col, self.b.mul(panel, i64(PANEL)))

    def _panel(self, panel: Value) -> Value:
        """Return where the bytes of a panel begin."""
        size = panel_bytes(self.kernel.kind, self.groups * GROUP)
        return self.b.gep(self.fn.params[self.kernel.panels], "i8", self.b.mul(panel, i64(size)))

    @contextmanager
    def _stretches(self) -> Iterator[tuple[Value, Value]]:
        """Write the loop over stretches; yields the first group of each and the one behind it."""
        b = self.b
        with b.loop(i64(0), i64(self.groups), STRETCH, hint="stretch") as first:
            whole = self.groups % STRETCH == 0
            last = b.add(first, i64(STRETCH))
            yield first, last if whole else b.min(last, i64(self.groups))

    def _stores(self) -> PanelStores:
        kernel = self.kernel
        return PanelStores(kernel.row, kernel.col, kernel.stores, self.width)

    # -- weights -------------------------------------------------------------------------------

    def _weights(
        self, panel: Value, number: Value, column: int
    ) -> Iterator[tuple[int, list[Value]]]:
        """Give the weights of a group at each depth value, a vector of columns each."""
        b, group, kind = self.b, self.group, self.kernel.kind
        head, record = group.record(panel, number)
        group.fetch(record, AHEAD, level=1)
        found = group.scales(record, column, group.factors(head, column))
        lows = [found.minimums or self._lows(scales) for scales in found.scales]
        codes = b.gep(record, "i8", record_bytes(kind) - group.code_bytes + 4 * column)
        by_place = [[self._by_place(scale) for scale in scales] for scales in found.scales]
        quads = GROUP // 4
        for quad in range(quads):
            span = quad * kind.spans // quads
            loaded = self._codes(codes, quad)
            for k in range(4):
                parts = zip(loaded, by_place[span], lows[span], strict=True)
                yield (
                    4 * quad + k,
                    [b.fma(self._float(word, k), scales[k], low) for word, scales, low in parts],
                )

    def _by_place(self, scale: Value) -> list[Value]:
        """Return a scale for codes in each of the four bytes of a word, which stay where they are.

        A code in byte ``k`` counts ``256 ** k`` times as much; powers of two round nothing.
        """
        b = self.b
        lower = [const(self.type, 256.0**-k) for k in range(1, self._in_place)]
        return [
            scale,
            *(b.binary("fmul", scale, x) for x in lower),
            *[scale] * (4 - len(lower) - 1),
        ]

    @property
    def _in_place(self) -> int:
        """Bytes of a word that become floats where they are: the highest bit would be a sign."""
        return 4 if self.kernel.kind.bits == 4 else 3

    def _lows(self, scales: list[Value]) -> list[Value]:
        """Return what is added where a format subtracts a number from its codes."""
        zero = const(self.type, -float(self.kernel.kind.zero))
        return [self.b.binary("fmul", scale, zero) for scale in scales]

    def _codes(self, codes: Value, quad: int) -> list[Value]:
        """Return the codes of four depth values in each lane, a byte each."""
        b, half = self.b, GROUP // 8
        if self.kernel.kind.bits != 4:
            return self.group.loaded(codes, quad)
        loaded = self.group.loaded(codes, quad % half)
        four, mask = const(loaded[0].type, 4), const(loaded[0].type, LOW_HALF)
        if quad >= half:
            loaded = [b.binary("lshr", word, four) for word in loaded]
        return [b.binary("and", word, mask) for word in loaded]

    def _float(self, word: Value, k: int) -> Value:
        """Return one of four bytes as a float, ``256 ** k`` times as large where it stays."""
        b = self.b
        if k < self._in_place:
            word = b.binary("and", word, const(word.type, 255 << 8 * k))
        else:
            word = b.binary("lshr", word, const(word.type, 8 * k))
        return b.cast("sitofp", word, self.type)

    # -- few rows ------------------------------------------------------------------------------

    def _few(self, frame: Frame, panel: Value, start: Value, stop: Value) -> None:
        """Write rows in register tiles that dequantise weights, from the highest tiles down."""
        b = self.b
        for height in self.kernel.heights:
            count = b.binary("udiv", b.binary("sub nsw", stop, start), i64(height))
            end = b.add(start, b.mul(count, i64(height)))
            with b.loop(start, end, height, hint="rows") as row:
                bound = frame.bind(self.kernel.row, row)
                for column in self.columns:
                    self._tile(bound, height, panel, column)
            start = end

    def _tile(self, frame: Frame, height: int, panel: Value, column: int) -> None:
        """Write a register tile through the whole depth, then its epilogue."""
        b, vectors = self.b, range(self.kernel.vectors)
        totals = [
            [b.gep(self.fn.scratch, F32, (i * len(vectors) + v) * self.width) for v in vectors]
            for i in range(height)
        ]
        self._clear(totals)
        with self._stretches() as (first, last):
            cells = [[self._zero() for _ in vectors] for _ in range(height)]
            with b.loop(first, last, hint="group") as number:
                self._group(frame, panel, (number, column), cells)
            sums = [[b.load(self.type, cell, 64) for cell in line] for line in cells]
            self._add(sums, totals)
        self._stores().write(frame, totals, column)

    def _zero(self) -> Value:
        cell = self.b.alloca(self.type)
        self.b.store(const(self.type, 0.0), cell, 64)
        return cell

    def _group(
        self, frame: Frame, panel: Value, at: tuple[Value, int], cells: list[list[Value]]
    ) -> None:
        """Multiply the rows of a tile by a group of weights."""
        b, kernel, (number, column) = self.b, self.kernel, at
        bound = frame.bind(kernel.depth, b.mul(number, i64(GROUP)))
        sums = [[b.load(self.type, cell, 64) for cell in line] for line in cells]
        for k, weights in self._weights(panel, number, column):
            for i, line in enumerate(sums):
                shift = {kernel.row: i, kernel.depth: k}
                value = b.splat(Point(bound, shift=shift).scalar(kernel.x), self.width)
                for v, weight in enumerate(weights):
                    line[v] = b.fma(value, weight, line[v])
        for line, places in zip(sums, cells, strict=True):
            for value, cell in zip(line, places, strict=True):
                b.store(value, cell, 64)

    def _clear(self, totals: list[list[Value]]) -> None:
        for place in (place for line in totals for place in line):
            self.b.store(const(self.type, 0.0), place, 64)

    def _add(self, sums: list[list[Value]], totals: list[list[Value]]) -> None:
        """Add the sums of a stretch to those of the ones before."""
        b = self.b
        for line, places in zip(sums, totals, strict=True):
            for value, place in zip(line, places, strict=True):
                b.store(b.binary("fadd", b.load(self.type, place, 64), value), place, 64)

    # -- many rows -----------------------------------------------------------------------------

    def _many(self, frame: Frame, chunk: _Chunk) -> Value:
        """Write whole tiles of rows, stretch by stretch; return the first row that is left."""
        b, kernel = self.b, self.kernel
        count = b.binary("sub nsw", chunk.stop, chunk.start)
        whole = b.mul(b.binary("udiv", count, i64(kernel.tile)), i64(kernel.tile))
        end = b.add(chunk.start, whole)
        chunk = _Chunk(chunk.start, end, chunk.panels)
        with b.when(b.icmp("slt", chunk.start, end)):
            with self._tiles(chunk) as (panel, row):
                for column in self.columns:
                    self._clear(self._totals(chunk, (panel, row), column))
            with self._stretches() as (first, last):
                self._pack(frame, chunk, first, last)
                with b.loop(*chunk.panels, hint="panel") as panel:
                    self._dequantize(self._panel(panel), first, last)
                    with b.loop(chunk.start, end, kernel.tile, hint="tile") as row:
                        self._multiply(chunk, (panel, row), first, last)
            with self._tiles(chunk) as (panel, row):
                bound = self._at_panel(frame, panel).bind(kernel.row, row)
                for column in self.columns:
                    totals = self._totals(chunk, (panel, row), column)
                    self._stores().write(bound, totals, column)
        return end

    @contextmanager
    def _tiles(self, chunk: _Chunk) -> Iterator[tuple[Value, Value]]:
        """Write the loops over the tiles of a chunk; yields the panel and the first row of each."""
        rows = (chunk.start, chunk.stop, self.kernel.tile)
        with self.b.loop(*chunk.panels) as panel, self.b.loop(*rows, hint="tile") as row:
            yield panel, row

    def _pack(self, frame: Frame, chunk: _Chunk, first: Value, last: Value) -> None:
        """Copy the rows' values of a stretch, one row behind the other."""
        b, depth = self.b, self.kernel.depth
        with b.loop(chunk.start, chunk.stop, hint="pack") as row:
            line = self._row(chunk, row)
            bound = frame.bind(self.kernel.row, row)
            with b.loop(first, last, hint="part") as number:
                here = bound.bind(depth, b.mul(number, i64(GROUP)))
                place = b.gep(line, F32, b.mul(b.binary("sub nsw", number, first), i64(GROUP)))
                for at in range(0, GROUP, self.width):
                    value = Point(here, depth, self.width, shift={depth: at}).value(self.kernel.x)
                    b.store(value, b.gep(place, F32, at), 4)

    def _dequantize(self, panel: Value, first: Value, last: Value) -> None:
        """Write the weights of a stretch as floats, [depth, column]."""
        b = self.b
        with b.loop(first, last, hint="unpack") as number:
            place = b.mul(b.binary("sub nsw", number, first), i64(GROUP * PANEL))
            to = b.gep(self.fn.scratch, F32, place)
            for column in self.columns:
                for k, weights in self._weights(panel, number, column):
                    for v, weight in enumerate(weights):
                        b.store(weight, b.gep(to, F32, k * PANEL + column + v * self.width), 64)

    def _multiply(self, chunk: _Chunk, at: tuple[Value, Value], first: Value, last: Value) -> None:
        """Multiply a tile of rows by the weights of a stretch."""
        b, kernel, width = self.b, self.kernel, self.width
        rows = self._row(chunk, at[1])
        depth = b.mul(b.binary("sub nsw", last, first), i64(GROUP))
        if self.groups % STRETCH == 0:
            depth = i64(DEEP)
        for column in self.columns:

            def scalar(i: int, k: Value, u: int) -> Value:
                return b.load(F32, b.gep(b.gep(rows, F32, k), F32, i * DEEP + u))

            def weight(v: int, k: Value, u: int, column: int = column) -> Value:
                line = b.gep(self.fn.scratch, F32, b.mul(k, i64(PANEL)))
                return b.load(self.type, b.gep(line, F32, u * PANEL + column + v * width), 64)

            def along(i: int, k: Value, u: int) -> Value:
                return b.load(self.type, b.gep(b.gep(rows, F32, k), F32, i * DEEP + u))

            operands = Operands(scalar, weight, along if self.lane_fma else None)
            shape = (kernel.tile, kernel.vectors)
            sums = register_tile(b, width, shape, depth, operands)
            self._add(sums, self._totals(chunk, at, column))

    def _row(self, chunk: _Chunk, row: Value) -> Value:
        """Return where the values of a row are packed, behind the weights of a stretch."""
        b = self.b
        packed = b.gep(self.fn.scratch, F32, DEEP * PANEL)
        return b.gep(packed, F32, b.mul(b.binary("sub nsw", row, chunk.start), i64(DEEP)))

    def _totals(self, chunk: _Chunk, at: tuple[Value, Value], column: int) -> list[list[Value]]:
        """Return where the sums of a tile wait between stretches, behind the packed rows."""
        b, kernel, (panel, row) = self.b, self.kernel, at
        number = b.mul(b.binary("sub nsw", panel, chunk.panels[0]), i64(kernel.block))
        number = b.add(number, b.binary("sub nsw", row, chunk.start))
        first = b.gep(self.fn.scratch, F32, DEEP * (PANEL + kernel.block) + column)
        first = b.gep(first, F32, b.mul(number, i64(PANEL)))
        return [
            [b.gep(first, F32, i * PANEL + v * self.width) for v in range(kernel.vectors)]
            for i in range(kernel.tile)
        ]

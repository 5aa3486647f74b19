"""Winograd convolution: transform tiles, multiply position by position, transform back.

All three stages of a block of tiles run in one chunk, so that the transformed data, several times
the size of the image, stays in the level-2 cache. Products are transformed back panel by panel: all
of them would push the transformed inputs out of that cache.

Positions are done in groups, one or two lines of a transformed tile, which take little of the
cache. Lines of products that pixels of a later group are made of too wait in scratch, transformed
back along themselves, which makes them shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whet.codegen.kinds.fetching import Stream, fetch_lines
from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    open_function,
    strips,
)
from whet.codegen.kinds.register_tile import Operands, register_tile
from whet.codegen.kinds.winograd_matrices import combined, transformed
from whet.codegen.kinds.winograd_scratch import (
    Scratch,
    block_of,
    filtering_of,
    grid_of,
    pixels_come_late,
    static,
    tiles_of,
)
from whet.codegen.writing.builder import F32, PTR, Builder, Module, Value, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.halves import store_scratch
from whet.index import Poly, as_poly, ceil_div, var
from whet.kernel.expr import Within
from whet.kernel.spec import ACCUMULATOR, Winograd
from whet.kernel.winograd_filtering import Filtering
from whet.target import Target

At = tuple[Value, Value]
Lines = Mapping[int, list[Value]]


def tiled_chunks(kernel: Winograd, lanes: int) -> Poly:
    """Return the number of chunks: blocks of tiles times blocks of panels."""
    panels = ceil_div(kernel.col.extent, kernel.tile.vectors * lanes)
    return ceil_div(tiles_of(kernel), block_of(kernel)) * ceil_div(panels, kernel.tile.panels)


def tiled_scratch(kernel: Winograd, lanes: int) -> int:
    """Return bytes of scratch of one thread: tiles, a panel of products, and kept lines."""
    return Scratch(kernel, lanes).size_bytes


def write_tiled(
    module: Module, name: str, kernel: Winograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution of tiles that are smaller than the image."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot
    fn.b.halves = target.products_per_cycle == 1
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    cursor = fn.b.alloca(PTR)
    scratch = Scratch(kernel, target.lanes)
    writer = _Writer(kernel, fn, scratch, filtering_of(kernel), cursor, target)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Place:
    """What a chunk covers: a block of tiles and a block of panels."""

    tiles: tuple[Value, Value]
    panels: tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: Winograd
    fn: Function
    scratch: Scratch
    filtering: Filtering
    cursor: Value
    target: Target

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def width(self) -> int:
        return self.scratch.lanes

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write one chunk: a block of tiles and a block of panels."""
        b, kernel = self.b, self.kernel
        block, tiles = self.scratch.block, tiles_of(kernel)
        panels = frame.scalar_index(ceil_div(kernel.col.extent, self.scratch.panel))
        blocks = frame.scalar_index(ceil_div(tiles, block))
        first = b.mul(b.binary("urem", chunk, blocks), i64(block))
        last = b.min(b.add(first, i64(block)), frame.scalar_index(tiles))
        panel_first = b.mul(b.binary("udiv", chunk, blocks), i64(kernel.tile.panels))
        panel_last = b.min(b.add(panel_first, i64(kernel.tile.panels)), panels)
        place = _Place((first, last), (panel_first, panel_last))
        groups = self.filtering.groups
        with b.loop(i64(0), i64(len(groups)), hint="group") as number:
            self._group(frame, number, place, groups)

    def _group(self, frame: Frame, number: Value, place: _Place, groups: list[range]) -> None:
        """Write the three stages of a group of lines; their products are the same code for all."""
        b = self.b
        first = place.tiles[0]
        for lines in self._each(number, groups):
            with b.loop(*place.tiles, hint="in") as tile:
                self._transform_in(frame, tile, b.binary("sub", tile, first), lines)
        with b.loop(*place.panels, hint="panel") as panel:
            self._products(number, panel, place)
            for lines in self._each(number, groups):
                with b.loop(*place.tiles, hint="out") as tile:
                    slot = b.binary("sub", tile, first)
                    self._transform_out(frame, (tile, slot), (panel, place.panels[0]), lines)

    def _each(self, number: Value, groups: list[range]) -> Iterator[range]:
        """Yield every group, and write what is done with it where the group of a number is done."""
        for k, lines in enumerate(groups):
            with self.b.when(self.b.icmp("eq", number, i64(k))):
                yield lines

    def _place(self, tile: Value) -> tuple[Value, Value, Value]:
        """Return image, tile row and tile column of a flat tile number."""
        b = self.b
        down, across = (static(p) for p in grid_of(self.kernel))
        column = b.binary("urem", tile, i64(across))
        line = b.binary("udiv", tile, i64(across))
        return b.binary("udiv", line, i64(down)), b.binary("urem", line, i64(down)), column

    def _output(self, frame: Frame, tile: Value, panel: Value) -> tuple[Frame, Value, Value]:
        """Return the frame of a tile's first output pixel, and the panel's channels."""
        b, kernel = self.b, self.kernel
        image, row, column = self._place(tile)
        bound = frame.bind(kernel.image, image)
        bound = bound.bind(kernel.rows, b.mul(row, i64(kernel.size)))
        bound = bound.bind(kernel.cols, b.mul(column, i64(kernel.size)))
        low = b.mul(panel, i64(self.scratch.panel))
        high = b.min(b.add(low, i64(self.scratch.panel)), frame.scalar_index(kernel.col.extent))
        return bound, low, high

    # -- input -------------------------------------------------------------------------------

    def _transform_in(self, frame: Frame, tile: Value, slot: Value, lines: range) -> None:
        """Transform one tile of all channels into scratch, some of its lines."""
        b, kernel, span = self.b, self.kernel, self.filtering.span
        image, row, column = self._place(tile)
        step = i64(kernel.stride * kernel.size)
        top = b.add(b.mul(row, step), i64(-kernel.pads[0]))
        left = b.add(b.mul(column, step), i64(-kernel.pads[1]))
        bound = frame.bind(kernel.image, image).bind(kernel.y, top).bind(kernel.x, left)
        edge = span - 1
        inside = Point(bound).holds(
            tuple(
                Within(var(axis) + k, as_poly(axis.extent))
                for axis in (kernel.y, kernel.x)
                for k in (0, edge)
            )
        )
        yes, no, done = b.label("inner"), b.label("border"), b.label("moved")
        b.branch(inside, yes, no)
        for label, guarded in ((yes, False), (no, True)):
            b.start(label)
            self._channels(bound, slot, lines, guarded)
            b.jump(done)
        b.start(done)

    def _channels(self, frame: Frame, slot: Value, lines: range, guarded: bool) -> None:
        b, span, matrix = self.b, self.filtering.span, self.filtering.inputs
        needed = [i for i in range(span) if any(matrix[k][i] for k in lines)]
        factors = [[matrix[k][i] for i in needed] for k in lines]
        fetches = not guarded and pixels_come_late(self.kernel, self.target)

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            if fetches:
                self._fetch_columns(inner, needed)
            columns = [
                transformed(b, factors, [self._pixel(inner, mask, (i, j), guarded) for i in needed])
                for j in range(span)
            ]
            rows = [transformed(b, matrix, row) for row in zip(*columns, strict=True)]
            at = (slot, inner.env[self.kernel.depth])
            for position, value in enumerate(v for row in rows for v in row):
                b.store(value, self.scratch.input(b, self.fn.scratch, position, at), 64)

        strips(frame, self.kernel.depth, self.width, strip)

    def _fetch_columns(self, frame: Frame, lines: Sequence[int]) -> None:
        """Bring the pixels that the next tile has and this one has not into the first cache."""
        kernel, span = self.kernel, self.filtering.span
        for i in lines:
            for j in range(span, span + kernel.size * kernel.stride):
                shift = {kernel.y: i, kernel.x: j}
                Point(frame, kernel.depth, self.width, shift=shift).fetch(kernel.a, level=1)

    def _pixel(self, frame: Frame, mask: Value | None, at: tuple[int, int], guarded: bool) -> Value:
        """Return a vector of channels of one pixel, zero outside the image."""
        kernel = self.kernel
        shift = {kernel.y: at[0], kernel.x: at[1]}
        point = Point(frame, kernel.depth, self.width, mask, shift)
        if not guarded:
            return point.value(kernel.a)
        keep = point.holds(
            (Within(var(kernel.y), kernel.y.extent), Within(var(kernel.x), kernel.x.extent))
        )
        return point.guarded(kernel.a, keep)

    # -- products ----------------------------------------------------------------------------

    def _products(self, number: Value, panel: Value, place: _Place) -> None:
        """Multiply a group of positions by a panel of transformed weights, one after the other."""
        b = self.b
        together, panel_elements = self.scratch.positions, self._panel_elements
        first = b.mul(number, i64(together))
        following = self._following(number, panel, place)
        with b.loop(i64(0), i64(together), hint="position") as position:
            weights = self._weights(panel, b.add(first, position))
            ends = b.icmp("eq", position, i64(together - 1))
            behind = b.gep(weights, F32, panel_elements)
            b.store(b.select(ends, following, behind), self.cursor, 8)
            start = 0
            for rows, count in self.scratch.heights:
                with b.loop(i64(start), i64(start + rows * count), rows, hint="rows") as slot:
                    self._product(position, slot, weights, rows)
                start += rows * count

    def _weights(self, panel: Value, position: Value) -> Value:
        """Return where the weights of a position begin in a panel."""
        b, span, kinds = self.b, self.filtering.span, self.filtering.kinds
        if kinds < span:
            line, column = (b.min(k, i64(kinds - 1)) for k in b.divide(position, span))
            position = b.add(b.mul(line, i64(kinds)), column)
        number = b.add(b.mul(panel, i64(kinds**2)), position)
        start = b.mul(number, i64(self._panel_elements))
        return b.gep(self.fn.params[self.kernel.weights], F32, start)

    @property
    def _panel_elements(self) -> int:
        """Weights of one position in a panel."""
        return static(self.kernel.depth.extent) * self.scratch.panel

    def _following(self, number: Value, panel: Value, place: _Place) -> Value:
        """Return the weights that follow a group's: of the next panel, or of the next group."""
        b = self.b
        together = self.scratch.positions
        this = b.mul(number, i64(together))
        behind = b.add(panel, i64(1))
        ends = b.icmp("eq", behind, place.panels[1])
        next_group = self._weights(place.panels[0], b.add(this, i64(together)))
        return b.select(ends, next_group, self._weights(behind, this))

    def _product(self, position: Value, slot: Value, weights: Value, rows: int) -> None:
        b, kernel, width = self.b, self.kernel, self.width
        apart, panel = self.scratch.depth, self.scratch.panel
        inputs = self.scratch.input(b, self.fn.scratch, position, (slot, i64(0)))

        def scalar(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(inputs, F32, k), F32, i * apart + u))

        def along(i: int, k: Value, u: int) -> Value:
            place = b.gep(b.gep(inputs, F32, k), F32, i * apart + u)
            return b.load(vector(F32, width), place)

        def lane(j: int, k: Value, u: int) -> Value:
            line = b.gep(weights, F32, b.mul(k, i64(panel)))
            return b.load(vector(F32, width), b.gep(line, F32, u * panel + j * width), 64)

        shape = (rows, kernel.tile.vectors)
        depth = static(kernel.depth.extent)
        operands = Operands(scalar, lane, along if self.target.lane_fma else None)
        sums = register_tile(b, width, shape, depth, operands, every=self._fetch_ahead)
        for i, line in enumerate(sums):
            at = (b.add(slot, i64(i)), i64(0))
            start = self.scratch.product(b, self.fn.scratch, position, at)
            for j, value in enumerate(line):
                store_scratch(b, value, b.gep(start, F32, j * width))

    def _fetch_ahead(self) -> None:
        """Bring part of the weights that come next into the second cache."""
        fetch_lines(self.b, Stream(self.cursor, self.kernel.tile.prefetch))

    # -- output ------------------------------------------------------------------------------

    def _transform_out(
        self, frame: Frame, tile: tuple[Value, Value], panel: tuple[Value, Value], lines: range
    ) -> None:
        """Transform lines of one tile of products back; write the pixels that are complete then.

        ``tile`` is its number and its place in the block, ``panel`` its number and the first one's.
        """
        b, kernel, matrix = self.b, self.kernel, self.filtering.outputs
        bound, low, high = self._output(frame, tile[0], panel[0])
        last = frame.scalar_index(tiles_of(kernel) - 1)
        later, _, _ = self._output(frame, b.min(b.add(tile[0], i64(1)), last), panel[0])
        skipped = b.mul(b.binary("sub", panel[0], panel[1]), i64(self.scratch.panel))
        complete = self.filtering.complete(lines)

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            at = b.binary("sub", inner.env[kernel.col], low)
            kept = (tile[1], b.add(skipped, at))
            following = later.bind(kernel.col, inner.env[kernel.col])
            own = {
                k: transformed(b, matrix, self._loaded(n, (tile[1], at)))
                for n, k in enumerate(lines)
            }
            self._keep(own, kept)
            for j in range(kernel.size):
                column = self._column(own, j, complete, kept)
                for i in complete:
                    terms = [(factor, column[k]) for k, factor in enumerate(matrix[i]) if factor]
                    self._fetch_pixel(following, (i, j))
                    self._pixel_out(inner, mask, (i, j), combined(b, terms))

        strips(bound, kernel.col, self.width, strip, span=(low, high))

    def _loaded(self, line: int, at: tuple[Value, Value]) -> list[Value]:
        """Return a line of products of a tile."""
        b, span = self.b, self.filtering.span
        numbers = range(line * span, (line + 1) * span)
        places = (self.scratch.product(b, self.fn.scratch, n, at) for n in numbers)
        return [b.load(vector(F32, self.width), place, 64) for place in places]

    def _keep(self, own: Lines, at: At) -> None:
        """Store the lines that pixels of later groups are made of."""
        for k in self.filtering.kept:
            for j, value in enumerate(own.get(k, ())):
                self.b.store(value, self._kept((k, j), at), 64)

    def _column(self, own: Lines, j: int, complete: Sequence[int], at: At) -> dict[int, Value]:
        """Return element ``j`` of all lines that the complete pixels are made of."""
        b, matrix = self.b, self.filtering.outputs
        column = {k: line[j] for k, line in own.items()}
        for k in self.filtering.kept:
            if k not in column and any(matrix[i][k] for i in complete):
                column[k] = b.load(vector(F32, self.width), self._kept((k, j), at), 64)
        return column

    def _kept(self, place: tuple[int, int], at: At) -> Value:
        """Return where an element of a line is kept, and fetch that of the next tile.

        ``place`` is line and element, ``at`` the tile in its block and the channel. The second
        cache has given some of these lines away, and stores wait for them one after the other.
        """
        b = self.b
        number = place[0] * self.kernel.size + place[1]
        following = (b.add(at[0], i64(1)), at[1])
        b.prefetch(self.scratch.kept(b, self.fn.scratch, number, following), level=1, writes=True)
        return self.scratch.kept(b, self.fn.scratch, number, at)

    def _fetch_pixel(self, frame: Frame, at: tuple[int, int]) -> None:
        """Bring where a pixel of the next tile will be written into the cache.

        Results come from the third cache or memory, and a transform alone is too short to wait.
        """
        kernel = self.kernel
        shift = {kernel.rows: at[0], kernel.cols: at[1]}
        point = Point(frame, kernel.col, self.width, shift=shift)
        for store in kernel.stores:
            if store.address.coefficient(kernel.col) == 1:
                self.b.prefetch(point.place(store), level=1, writes=True)

    def _pixel_out(
        self, frame: Frame, mask: Value | None, at: tuple[int, int], value: Value
    ) -> None:
        """Write one output pixel, if the image has it."""
        kernel = self.kernel
        shift = {kernel.rows: at[0], kernel.cols: at[1]}
        point = Point(frame, kernel.col, self.width, mask, shift, {ACCUMULATOR: value})
        conditions = tuple(
            Within(var(axis), axis.extent)
            for axis, k in zip((kernel.rows, kernel.cols), at, strict=True)
            if k and static(axis.extent) % kernel.size and k >= static(axis.extent) % kernel.size
        )
        if not conditions:
            for store in kernel.stores:
                point.store(store)
            return
        with self.b.when(point.holds(conditions)):
            for store in kernel.stores:
                point.store(store)

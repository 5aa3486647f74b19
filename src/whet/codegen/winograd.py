"""Winograd convolution: transform tiles, multiply position by position, transform back.

All three stages of a block of tiles run in one chunk, so that the transformed data, several times
the size of the image, stays in the level-2 cache. Products are transformed back panel by panel: all
of them would push the transformed inputs out of that cache.

Positions are done in groups, one or two lines of a transformed tile, which take little of the
cache. The back transform of all but the last group leaves partial results in scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whet.codegen.builder import F32, PTR, Builder, Module, Value, const, i64, vector
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import Function, accesses_of, frame_of, open_function, strips
from whet.codegen.register_tile import Operands, register_tile
from whet.index import Axis, Poly, as_poly, ceil_div, product, var
from whet.kernel.expr import Within
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import ACCUMULATOR, Winograd
from whet.kernel.winograd import FILTERINGS, Filtering, Matrix
from whet.target import Target


def winograd_chunks(kernel: Winograd, lanes: int) -> Poly:
    """Return the number of chunks of a Winograd convolution."""
    panels = ceil_div(kernel.col.extent, kernel.tile.vectors * lanes)
    return ceil_div(_tiles(kernel), _block(kernel)) * ceil_div(panels, kernel.tile.panels)


def winograd_scratch(kernel: Winograd, lanes: int) -> int:
    """Return bytes of scratch of one thread: tiles, a panel of products, and partial results."""
    block, panel = _block(kernel), kernel.tile.vectors * lanes
    positions = FILTERINGS[kernel.size].together * FILTERINGS[kernel.size].span
    inputs = _stride(block * _padded(kernel.depth, lanes), lanes)
    partial = kernel.size**2 * _stride(block * kernel.tile.panels * panel, lanes)
    return 4 * (positions * (inputs + _stride(block * panel, lanes)) + partial)


def _stride(elements: int, lanes: int) -> int:
    """Return the distance of two positions: an odd number of vectors.

    A transform writes one vector to each position; at a power of two apart they would all fall
    into one set of the cache.
    """
    vectors = elements // lanes
    return (vectors + 1 - vectors % 2) * lanes


def _block(kernel: Winograd) -> int:
    """Return the tiles of a block; blocks are of equal size, so that little is done in vain."""
    most, total = kernel.tile.rows * kernel.tile.row_items, _tiles(kernel).constant
    return most if total is None else -(-total // -(-total // most))


def _heights(kernel: Winograd) -> list[tuple[int, int]]:
    """Return the heights of a block's register tiles, and how many there are of each."""
    count = -(-_block(kernel) // kernel.tile.rows)
    small, larger = divmod(_block(kernel), count)
    found = [(small + 1, larger), (small, count - larger)]
    return [(height, tiles) for height, tiles in found if tiles]


def _tiles(kernel: Winograd) -> Poly:
    return product((kernel.image.extent, *_grid(kernel)))


def _grid(kernel: Winograd) -> tuple[Poly, Poly]:
    return ceil_div(kernel.rows.extent, kernel.size), ceil_div(kernel.cols.extent, kernel.size)


def _padded(axis: Axis, lanes: int) -> int:
    extent = axis.extent.constant
    assert extent is not None, "channels are static in Winograd kernels"
    return -(-extent // lanes) * lanes


def write_winograd(
    module: Module, name: str, kernel: Winograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    cursor = fn.b.alloca(PTR)
    filtering = FILTERINGS[kernel.size]
    writer = _Writer(kernel, fn, target.lanes, filtering, cursor, target.lane_fma)
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
    width: int
    filtering: Filtering
    cursor: Value
    lane_fma: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def depth(self) -> int:
        return _padded(self.kernel.depth, self.width)

    @property
    def panel(self) -> int:
        return self.kernel.tile.vectors * self.width

    @property
    def _together(self) -> int:
        """Positions of a group."""
        return self.filtering.together * self.filtering.span

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write one chunk: a block of tiles and a block of panels."""
        b, kernel = self.b, self.kernel
        total = frame.scalar_index(_tiles(kernel))
        panels = frame.scalar_index(ceil_div(kernel.col.extent, self.panel))
        blocks = frame.scalar_index(ceil_div(_tiles(kernel), _block(kernel)))
        first = b.mul(b.binary("urem", chunk, blocks), i64(_block(kernel)))
        last = b.min(b.add(first, i64(_block(kernel))), total)
        panel_first = b.mul(b.binary("udiv", chunk, blocks), i64(kernel.tile.panels))
        panel_last = b.min(b.add(panel_first, i64(kernel.tile.panels)), panels)
        place = _Place((first, last), (panel_first, panel_last))
        groups = self._groups()
        with b.loop(i64(0), i64(len(groups)), hint="group") as number:
            self._group(frame, number, place, groups)

    def _groups(self) -> list[range]:
        """Return the lines of a transformed tile that are done together."""
        size = self.filtering.together
        return [range(k, k + size) for k in range(0, self.filtering.span, size)]

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
        down, across = (self._static(p) for p in _grid(self.kernel))
        column = b.binary("urem", tile, i64(across))
        line = b.binary("udiv", tile, i64(across))
        return b.binary("udiv", line, i64(down)), b.binary("urem", line, i64(down)), column

    def _static(self, p: Poly) -> int:
        assert p.constant is not None, "images are static in Winograd kernels"
        return p.constant

    def _output(self, frame: Frame, tile: Value, panel: Value) -> tuple[Frame, Value, Value]:
        """Return the frame of a tile's first output pixel, and the panel's channels."""
        b, kernel = self.b, self.kernel
        image, row, column = self._place(tile)
        bound = frame.bind(kernel.image, image)
        bound = bound.bind(kernel.rows, b.mul(row, i64(kernel.size)))
        bound = bound.bind(kernel.cols, b.mul(column, i64(kernel.size)))
        low = b.mul(panel, i64(self.panel))
        high = b.min(b.add(low, i64(self.panel)), frame.scalar_index(kernel.col.extent))
        return bound, low, high

    # -- input -------------------------------------------------------------------------------

    def _transform_in(self, frame: Frame, tile: Value, slot: Value, lines: range) -> None:
        """Transform one tile of all channels into scratch, some of its lines."""
        b, kernel, span = self.b, self.kernel, self.filtering.span
        image, row, column = self._place(tile)
        top = b.add(b.mul(row, i64(kernel.size)), i64(-kernel.pads[0]))
        left = b.add(b.mul(column, i64(kernel.size)), i64(-kernel.pads[1]))
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
        span, inputs = self.filtering.span, self.filtering.inputs
        needed = [i for i in range(span) if any(inputs[k][i] for k in lines)]

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            columns = []
            for j in range(span):
                pixels = [self._pixel(inner, mask, i, j, guarded) for i in needed]
                columns.append(
                    [
                        combined(
                            self.b, [(inputs[k][i], v) for i, v in zip(needed, pixels, strict=True)]
                        )
                        for k in lines
                    ]
                )
            rows = [transformed(self.b, inputs, row) for row in zip(*columns, strict=True)]
            for position, value in enumerate(v for row in rows for v in row):
                self.b.store(value, self._slot(position, slot, inner.env[self.kernel.depth]), 64)

        strips(frame, self.kernel.depth, self.width, strip)

    def _pixel(self, frame: Frame, mask: Value | None, i: int, j: int, guarded: bool) -> Value:
        """Return a vector of channels of one pixel, zero outside the image."""
        kernel = self.kernel
        point = Point(frame, kernel.depth, self.width, mask, {kernel.y: i, kernel.x: j})
        if not guarded:
            return point.value(kernel.a)
        keep = point.holds(
            (Within(var(kernel.y), kernel.y.extent), Within(var(kernel.x), kernel.x.extent))
        )
        return point.guarded(kernel.a, keep)

    def _slot(self, position: int | Value, slot: Value, channel: Value) -> Value:
        """Return where a transformed input lies, [positions, tiles, channels]."""
        b = self.b
        at = i64(position) if isinstance(position, int) else position
        start = b.mul(at, i64(_stride(_block(self.kernel) * self.depth, self.width)))
        offset = b.add(b.mul(slot, i64(self.depth)), channel)
        return b.gep(self.fn.scratch, F32, b.add(start, offset))

    # -- products ----------------------------------------------------------------------------

    def _products(self, number: Value, panel: Value, place: _Place) -> None:
        """Multiply a group of positions by a panel of transformed weights, one after the other."""
        b, kernel = self.b, self.kernel
        together = self._together
        first = b.mul(number, i64(together))
        following = self._following(number, panel, place)
        with b.loop(i64(0), i64(together), hint="position") as position:
            weights = self._weights(panel, b.add(first, position))
            ends = b.icmp("eq", position, i64(together - 1))
            size = self._static(kernel.depth.extent) * self.panel
            b.store(b.select(ends, following, b.gep(weights, F32, size)), self.cursor, 8)
            start = 0
            for rows, count in _heights(kernel):
                with b.loop(i64(start), i64(start + rows * count), rows, hint="rows") as slot:
                    self._product(position, slot, weights, rows)
                start += rows * count

    def _weights(self, panel: Value, position: Value) -> Value:
        """Return where the weights of a position begin in a panel."""
        b = self.b
        number = b.add(b.mul(panel, i64(self.filtering.span**2)), position)
        size = self._static(self.kernel.depth.extent) * self.panel
        return b.gep(self.fn.params[self.kernel.weights], F32, b.mul(number, i64(size)))

    def _following(self, number: Value, panel: Value, place: _Place) -> Value:
        """Return the weights that follow a group's: of the next panel, or of the next group."""
        b = self.b
        together = self._together
        this = b.mul(number, i64(together))
        behind = b.add(panel, i64(1))
        ends = b.icmp("eq", behind, place.panels[1])
        next_group = self._weights(place.panels[0], b.add(this, i64(together)))
        return b.select(ends, next_group, self._weights(behind, this))

    def _product(self, position: Value, slot: Value, weights: Value, rows: int) -> None:
        b, kernel, width = self.b, self.kernel, self.width
        inputs = self._slot(position, slot, i64(0))

        def scalar(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(inputs, F32, k), F32, i * self.depth + u))

        def along(i: int, k: Value, u: int) -> Value:
            place = b.gep(b.gep(inputs, F32, k), F32, i * self.depth + u)
            return b.load(vector(F32, width), place)

        def lane(j: int, k: Value, u: int) -> Value:
            line = b.gep(weights, F32, b.mul(k, i64(self.panel)))
            return b.load(vector(F32, width), b.gep(line, F32, u * self.panel + j * width), 64)

        shape = (rows, kernel.tile.vectors)
        depth = self._static(kernel.depth.extent)
        operands = Operands(scalar, lane, along if self.lane_fma else None)
        sums = register_tile(b, width, shape, depth, operands, every=self._fetch_ahead)
        for i, line in enumerate(sums):
            start = self._result(position, b.add(slot, i64(i)), i64(0))
            for j, value in enumerate(line):
                b.store(value, b.gep(start, F32, j * width), 64)

    def _fetch_ahead(self) -> None:
        b, lines = self.b, self.kernel.tile.prefetch
        at = b.load(PTR, self.cursor, 8)
        for line in range(lines):
            b.prefetch(b.gep(at, "i8", LINE_BYTES * line))
        b.store(b.gep(at, "i8", LINE_BYTES * lines), self.cursor, 8)

    def _result(self, position: int | Value, slot: Value, column: Value) -> Value:
        """Return where a product lies, behind the inputs, [positions, tiles, panel]."""
        b = self.b
        at = i64(position) if isinstance(position, int) else position
        block = _block(self.kernel)
        start = b.mul(at, i64(_stride(block * self.panel, self.width)))
        offset = b.add(b.mul(slot, i64(self.panel)), column)
        inputs = self._together * _stride(block * self.depth, self.width)
        return b.gep(b.gep(self.fn.scratch, F32, inputs), F32, b.add(start, offset))

    # -- output ------------------------------------------------------------------------------

    def _transform_out(
        self, frame: Frame, tile: tuple[Value, Value], panel: tuple[Value, Value], lines: range
    ) -> None:
        """Transform lines of one tile of products back; write the pixels that are complete.

        ``tile`` is its number and its place in the block, ``panel`` its number and the first one's.
        """
        b, kernel = self.b, self.kernel
        bound, low, high = self._output(frame, tile[0], panel[0])
        outputs, slot = self.filtering.outputs, tile[1]
        skipped = b.mul(b.binary("sub", panel[0], panel[1]), i64(self.panel))

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            at = b.binary("sub", inner.env[kernel.col], low)
            rows = [transformed(b, outputs, self._loaded(k, slot, at)) for k in range(len(lines))]
            for i, factors in enumerate(outputs):
                used = [k for k, factor in enumerate(factors) if factor]
                for j in range(kernel.size):
                    terms = [(factors[k], row[j]) for k, row in zip(lines, rows, strict=True)]
                    if not any(factor for factor, _ in terms):
                        continue
                    place = self._partial((i, j), slot, b.add(skipped, at))
                    if used[0] < lines.start:
                        terms.append((1, b.load(vector(F32, self.width), place, 64)))
                    value = combined(b, terms)
                    if used[-1] in lines:
                        self._pixel_out(inner, mask, (i, j), value)
                    else:
                        b.store(value, place, 64)

        strips(bound, kernel.col, self.width, strip, span=(low, high))

    def _loaded(self, line: int, slot: Value, column: Value) -> list[Value]:
        """Return a line of products of a tile."""
        span = self.filtering.span
        places = (self._result(line * span + j, slot, column) for j in range(span))
        return [self.b.load(vector(F32, self.width), place, 64) for place in places]

    def _partial(self, pixel: tuple[int, int], slot: Value, column: Value) -> Value:
        """Return where a partial result lies, behind the products, [pixels, tiles, columns]."""
        b, kernel = self.b, self.kernel
        block, columns = _block(kernel), kernel.tile.panels * self.panel
        number = pixel[0] * kernel.size + pixel[1]
        before = self._together * (
            _stride(block * self.depth, self.width) + _stride(block * self.panel, self.width)
        )
        start = before + number * _stride(block * columns, self.width)
        offset = b.add(b.mul(slot, i64(columns)), column)
        return b.gep(b.gep(self.fn.scratch, F32, start), F32, offset)

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
            if k
            and self._static(axis.extent) % kernel.size
            and k >= self._static(axis.extent) % kernel.size
        )
        if not conditions:
            for store in kernel.stores:
                point.store(store)
            return
        with self.b.when(point.holds(conditions)):
            for store in kernel.stores:
                point.store(store)


def transformed(b: Builder, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """Return a matrix times a vector of registers."""
    return [combined(b, list(zip(line, values, strict=True))) for line in matrix]


def combined(b: Builder, terms: Sequence[tuple[float, Value]]) -> Value:
    """Return a sum of registers with factors, without products by 0 and 1."""
    left = sorted((t for t in terms if t[0]), key=lambda t: (t[0] != 1, abs(t[0]) != 1))
    factor, total = left[0]
    if factor != 1:
        total = b.binary("fmul", total, const(total.type, factor))
    for factor, value in left[1:]:
        if abs(factor) == 1:
            total = b.binary("fadd" if factor == 1 else "fsub", total, value)
        else:
            total = b.fma(value, const(value.type, factor), total)
    return total

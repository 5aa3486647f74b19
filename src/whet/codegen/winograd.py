"""Winograd convolution: transform tiles, multiply position by position, transform back.

All three stages of a block of tiles run in one chunk, so that the transformed data, several times
the size of the image, stays in the level-2 cache. Products are transformed back panel by panel: all
of them would push the transformed inputs out of that cache.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Return bytes of scratch of one thread: a block of tiles and a panel of their products."""
    positions = FILTERINGS[kernel.size].span ** 2
    panel = kernel.tile.vectors * lanes
    inputs = _stride(_block(kernel) * _padded(kernel.depth, lanes), lanes)
    return 4 * positions * (inputs + _stride(_block(kernel) * panel, lanes))


def _stride(elements: int, lanes: int) -> int:
    """Return the distance of two positions: an odd number of vectors.

    A transform writes one vector to each position; at a power of two apart they would all fall
    into one set of the cache.
    """
    vectors = elements // lanes
    return (vectors + 1 - vectors % 2) * lanes


def _block(kernel: Winograd) -> int:
    return kernel.tile.rows * kernel.tile.row_items


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
        with b.loop(first, last, hint="in") as tile:
            self._transform_in(frame, tile, b.binary("sub", tile, first))
        with b.loop(panel_first, panel_last, hint="panel") as panel:
            self._products(panel)
            with b.loop(first, last, hint="out") as tile:
                self._transform_out(frame, tile, b.binary("sub", tile, first), panel)

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

    def _transform_in(self, frame: Frame, tile: Value, slot: Value) -> None:
        """Transform one tile of all channels into scratch."""
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
            self._channels(bound, slot, guarded)
            b.jump(done)
        b.start(done)

    def _channels(self, frame: Frame, slot: Value, guarded: bool) -> None:
        span = self.filtering.span

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            patch = [
                [self._pixel(inner, mask, i, j, guarded) for j in range(span)] for i in range(span)
            ]
            moved = separable(self.b, self.filtering.inputs, patch)
            for position, value in enumerate(v for line in moved for v in line):
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

    def _products(self, panel: Value) -> None:
        """Multiply transformed tiles by a panel of transformed weights, position by position."""
        b, kernel, depth = self.b, self.kernel, self._static(self.kernel.depth.extent)
        positions = self.filtering.span**2
        with b.loop(i64(0), i64(positions), hint="position") as position:
            number = b.add(b.mul(panel, i64(positions)), position)
            start = b.mul(number, i64(depth * self.panel))
            weights = b.gep(self.fn.params[kernel.weights], F32, start)
            b.store(b.gep(weights, F32, depth * self.panel), self.cursor, 8)
            with b.loop(i64(0), i64(kernel.tile.row_items), hint="rows") as item:
                self._product(position, b.mul(item, i64(kernel.tile.rows)), weights)

    def _product(self, position: Value, slot: Value, weights: Value) -> None:
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

        shape = (kernel.tile.rows, kernel.tile.vectors)
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
        inputs = self.filtering.span**2 * _stride(block * self.depth, self.width)
        return b.gep(b.gep(self.fn.scratch, F32, inputs), F32, b.add(start, offset))

    # -- output ------------------------------------------------------------------------------

    def _transform_out(self, frame: Frame, tile: Value, slot: Value, panel: Value) -> None:
        """Transform one tile of products back and write its pixels."""
        b, kernel = self.b, self.kernel
        bound, low, high = self._output(frame, tile, panel)
        span = self.filtering.span

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            at = b.binary("sub", inner.env[kernel.col], low)
            products = [
                [
                    b.load(vector(F32, self.width), self._result(i * span + j, slot, at), 64)
                    for j in range(span)
                ]
                for i in range(span)
            ]
            moved = separable(b, self.filtering.outputs, products)
            for i, line in enumerate(moved):
                for j, value in enumerate(line):
                    self._pixel_out(inner, mask, (i, j), value)

        strips(bound, kernel.col, self.width, strip, span=(low, high))

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


def separable(b: Builder, matrix: Matrix, patch: list[list[Value]]) -> list[list[Value]]:
    """Return ``matrix patch matrix'``."""
    columns = [_apply(b, matrix, [line[j] for line in patch]) for j in range(len(patch[0]))]
    rows = [[column[i] for column in columns] for i in range(len(matrix))]
    return [_apply(b, matrix, row) for row in rows]


def _apply(b: Builder, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """Return a matrix times a vector of registers, without products by 0 and 1."""
    results = []
    for line in matrix:
        terms = sorted(
            ((c, v) for c, v in zip(line, values, strict=True) if c), key=lambda t: abs(t[0]) != 1
        )
        terms.sort(key=lambda t: t[0] != 1)
        factor, total = terms[0]
        if factor != 1:
            total = b.binary("fmul", total, const(total.type, factor))
        for factor, value in terms[1:]:
            if abs(factor) == 1:
                total = b.binary("fadd" if factor == 1 else "fsub", total, value)
            else:
                total = b.fma(value, const(value.type, factor), total)
        results.append(total)
    return results

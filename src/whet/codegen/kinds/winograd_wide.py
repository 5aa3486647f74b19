"""Winograd convolution of whole images several tiles wide: taps are transformed block by block.

Transformed weights of such images are four times as many as there are taps, and each is read for 9
to 25 products only. So the taps stay as they are, and a vector of filters takes a block of channels
of them at a time and transforms their columns into scratch, where they stay near. Along lines the
columns become weights where the inputs of all tiles are multiplied by them. Sums wait in scratch
between blocks.

Tiles of two sizes share their weights (``kernel/winograd_sides.py``): products along a side are in
the order of their weights, and those of one weight belong to as many tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from whet.codegen.kinds.winograd_images import image_and_panels
from whet.codegen.kinds.winograd_matrices import tap_sum, transformed
from whet.codegen.kinds.winograd_scratch import filtering_of, static
from whet.codegen.writing.builder import F32, PTR, Builder, Module, Value, const, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.kernel.spec import ACCUMULATOR, Winograd
from whet.kernel.winograd_filtering import SIDE, TAPS, Filtering
from whet.target import Target


@dataclass(frozen=True, slots=True)
class WideScratch:
    """The scratch of one thread, in vectors: inputs, sums, a block's columns, half a transform.

    Attributes:
        kernel: the convolution.
        lanes: lanes of a vector.
    """

    kernel: Winograd
    lanes: int

    @property
    def filtering(self) -> Filtering:
        """How a side is filtered."""
        return filtering_of(self.kernel)

    @property
    def depth(self) -> int:
        """Vectors of channels."""
        return static(self.kernel.depth.extent) // self.lanes

    @property
    def columns_apart(self) -> int:
        """Vectors from one column of a block to the next: an odd number.

        A transform writes one vector to each column; at a power of two apart they would all fall
        into one set of the cache.
        """
        return self.kernel.tile.block | 1

    @property
    def sums(self) -> int:
        """Where the sums begin."""
        return self.filtering.span**2 * self.depth

    @property
    def columns(self) -> int:
        """Where the columns begin."""
        return self.sums + self.filtering.span**2

    @property
    def half(self) -> int:
        """Where lines begin that are transformed along one side."""
        return self.columns + self.filtering.kinds * SIDE * self.columns_apart

    @property
    def size(self) -> int:
        """Vectors of all of it."""
        return self.half + self.filtering.span * len(self.filtering.inputs[0])


def wide_scratch(kernel: Winograd, lanes: int) -> int:
    """Return bytes of scratch of one thread."""
    return 4 * lanes * WideScratch(kernel, lanes).size


def write_wide(
    module: Module, name: str, kernel: Winograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution of images several tiles wide."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    scratch = WideScratch(kernel, target.lanes)
    adds = target.products_per_cycle == 1
    writer = _Writer(kernel, fn, scratch.filtering, scratch, fn.b.alloca(PTR), adds)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Weights along a side that as many products each are made with.

    Attributes:
        weights: their numbers.
        start: the first product of the first of them.
        count: products of each.
    """

    weights: range
    start: int
    count: int


def _kinds(filtering: Filtering) -> list[_Kinds]:
    """Return the weights along a side, those of as many products together."""
    found: list[_Kinds] = []
    for kind in range(filtering.kinds):
        products = filtering.products_of(kind)
        if found and found[-1].count == len(products):
            last = found.pop()
            found.append(_Kinds(range(last.weights.start, kind + 1), last.start, last.count))
        else:
            found.append(_Kinds(range(kind, kind + 1), products[0], len(products)))
    return found


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: Winograd
    fn: Function
    filtering: Filtering
    scratch: WideScratch
    cursor: Value
    adds: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def width(self) -> int:
        return self.scratch.lanes

    @property
    def type(self) -> str:
        return vector(F32, self.width)

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write one chunk: an image and a block of panels."""
        b, kernel = self.b, self.kernel
        image, panels = image_and_panels(b, kernel, self.width, chunk)
        bound = frame.bind(kernel.image, image)
        self._transform_in(bound)
        b.store(self._taps(panels[0], i64(kernel.tile.block)), self.cursor, 8)
        with b.loop(*panels, hint="panel") as panel:
            self._clear()
            depth = static(kernel.depth.extent)
            with b.loop(i64(0), i64(depth), kernel.tile.block, hint="depth") as channel:
                self._transform_columns(panel, channel)
                self._multiply(channel)
            self._transform_out(bound, panel)

    # -- input -------------------------------------------------------------------------------

    def _transform_in(self, frame: Frame) -> None:
        """Transform all channels of an image into scratch: along columns, then along lines."""
        kernel, matrix = self.kernel, self.filtering.inputs
        inside = [
            [k for k in range(len(matrix[0])) if 0 <= k - pad < static(axis.extent)]
            for axis, pad in zip((kernel.y, kernel.x), kernel.pads, strict=True)
        ]
        down, across = ([[line[k] for k in near] for line in matrix] for near in inside)
        top, left = (near[0] - pad for near, pad in zip(inside, kernel.pads, strict=True))

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            b, columns = self.b, len(inside[1])
            with b.loop(i64(0), i64(columns), hint="column") as column:
                here = inner.bind(kernel.x, b.add(column, i64(left)))
                pixels = [self._pixel(here, k) for k in range(len(inside[0]))]
                for n, value in enumerate(transformed(b, down, pixels)):
                    b.store(value, self._half(i64(n), column), 64)
            with b.loop(i64(0), i64(self.filtering.span), hint="line") as line:
                row = [b.load(self.type, self._half(line, i64(k)), 64) for k in range(columns)]
                start = b.mul(line, i64(self.filtering.span))
                for n, value in enumerate(transformed(b, across, row)):
                    place = self._input(b.add(start, i64(n)), inner.env[kernel.depth])
                    b.store(value, place, 64)

        bound = frame.bind(kernel.y, i64(top))
        strips(bound, kernel.depth, self.width, strip)

    def _pixel(self, frame: Frame, row: int) -> Value:
        """Return a vector of channels of one pixel."""
        kernel = self.kernel
        return Point(frame, kernel.depth, self.width, shift={kernel.y: row}).value(kernel.a)

    # -- products ----------------------------------------------------------------------------

    def _transform_columns(self, panel: Value, channel: Value) -> None:
        """Transform the columns of a block of channels' taps into scratch."""
        b = self.b
        with b.loop(i64(0), i64(self.kernel.tile.block), hint="taps") as k:
            taps = self._taps(panel, b.add(channel, k))
            for j in range(SIDE):
                column = [
                    b.load(self.type, b.gep(taps, F32, t * self.width), 64)
                    for t in range(j, TAPS, SIDE)
                ]
                for u, factors in enumerate(self.filtering.filters):
                    value = tap_sum(b, factors, column, adds=self.adds)
                    b.store(value, self._column(i64(u), j, k), 64)

    def _multiply(self, channel: Value) -> None:
        """Multiply all positions by a block of channels, and add to their sums."""
        for down in _kinds(self.filtering):
            for u, line in self._each(down):
                for v in range(self.filtering.kinds):
                    self._product((u, v), line, channel, down.count)

    def _each(self, kinds: _Kinds) -> Iterator[tuple[Value, Value]]:
        """Yield each weight and its first product, in a loop where there are several."""
        b, first = self.b, kinds.weights.start
        if len(kinds.weights) == 1:
            yield i64(first), i64(kinds.start)
            return
        with b.loop(i64(0), i64(len(kinds.weights)), hint="kind") as k:
            yield b.add(k, i64(first)), b.add(b.mul(k, i64(kinds.count)), i64(kinds.start))

    def _product(self, at: tuple[Value, int], line: Value, channel: Value, lines: int) -> None:
        """Add one weight's products to the sums of some lines, from one on, and its columns."""
        b, span = self.b, self.filtering.span
        products = self.filtering.products_of(at[1])
        start = b.add(b.mul(line, i64(span)), i64(products[0]))
        offsets = [i * span + j for i in range(lines) for j in range(len(products))]
        inputs = self._input(start, channel)
        apart, factors = self.kernel.tile.block, self.filtering.filters[at[1]]

        def scalar(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(inputs, F32, k), F32, offsets[i] * apart + u))

        def lane(j: int, k: Value, u: int) -> Value:
            step = b.add(k, i64(u))
            columns = [b.load(self.type, self._column(at[0], c, step), 64) for c in range(SIDE)]
            return tap_sum(b, factors, columns, adds=self.adds)

        tile = (len(offsets), 1)
        operands = Operands(scalar, lane)
        depth = self.kernel.tile.block
        found = register_tile(b, self.width, tile, depth, operands, every=self._fetch_ahead)
        sums = self._sum(start)
        for offset, (value,) in zip(offsets, found, strict=True):
            place = b.gep(sums, F32, offset * self.width)
            b.store(b.binary("fadd", b.load(self.type, place, 64), value), place, 64)

    def _fetch_ahead(self) -> None:
        """Bring part of the next block's taps into the second cache."""
        fetch_lines(self.b, Stream(self.cursor, self.kernel.tile.prefetch))

    # -- output ------------------------------------------------------------------------------

    def _transform_out(self, frame: Frame, panel: Value) -> None:
        """Transform the sums of a panel back along lines, then along columns into pixels."""
        b, kernel, matrix = self.b, self.kernel, self.filtering.outputs
        low = b.mul(panel, i64(self.width))
        high = b.min(b.add(low, i64(self.width)), i64(static(kernel.col.extent)))
        span, size = self.filtering.span, self.filtering.size

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            with b.loop(i64(0), i64(span), hint="line") as line:
                start = self._sum(b.mul(line, i64(span)))
                row = [
                    b.load(self.type, b.gep(start, F32, k * self.width), 64) for k in range(span)
                ]
                for n, value in enumerate(transformed(b, matrix, row)):
                    b.store(value, self._half(line, i64(n)), 64)
            with b.loop(i64(0), i64(size), hint="column") as column:
                here = inner.bind(kernel.cols, column)
                values = [b.load(self.type, self._half(i64(k), column), 64) for k in range(span)]
                for i, value in enumerate(transformed(b, matrix, values)):
                    names = {ACCUMULATOR: value}
                    point = Point(here, kernel.col, self.width, mask, {kernel.rows: i}, names)
                    for store in kernel.stores:
                        point.store(store)

        bound = frame.bind(kernel.rows, i64(0))
        strips(bound, kernel.col, self.width, strip, span=(low, high))

    # -- places ------------------------------------------------------------------------------

    def _taps(self, panel: Value, channel: Value) -> Value:
        """Return where the taps of a panel begin at a channel."""
        b = self.b
        number = b.add(b.mul(panel, i64(static(self.kernel.depth.extent))), channel)
        place = b.mul(number, i64(TAPS * self.width))
        return b.gep(self.fn.params[self.kernel.weights], F32, place)

    def _input(self, position: Value, channel: Value) -> Value:
        """Return where a position's inputs lie, as [blocks, positions, channels of a block].

        So they are multiplied about as they follow each other, and fetched ahead.
        """
        b, wide = self.b, self.kernel.tile.block
        block, rest = b.divide(channel, wide)
        number = b.add(b.mul(block, i64(self.filtering.span**2)), position)
        return b.gep(b.gep(self.fn.scratch, F32, b.mul(number, i64(wide))), F32, rest)

    def _sum(self, position: Value) -> Value:
        """Return where the sum of a position lies."""
        return self._vector(self.scratch.sums, position)

    def _column(self, line: Value, number: int, channel: Value) -> Value:
        """Return where a column of taps lies that was transformed for a line."""
        b = self.b
        at = b.add(b.mul(line, i64(SIDE)), i64(number))
        at = b.add(b.mul(at, i64(self.scratch.columns_apart)), channel)
        return self._vector(self.scratch.columns, at)

    def _half(self, line: Value, column: Value) -> Value:
        """Return where an element lies that is transformed along one side."""
        b = self.b
        at = b.add(b.mul(line, i64(len(self.filtering.inputs[0]))), column)
        return self._vector(self.scratch.half, at)

    def _vector(self, start: int, number: Value) -> Value:
        b = self.b
        place = b.mul(number, i64(self.width))
        return b.gep(b.gep(self.fn.scratch, F32, start * self.width), F32, place)

    def _clear(self) -> None:
        zero = const(self.type, 0.0)
        with self.b.loop(i64(0), i64(self.filtering.span**2), hint="clear") as position:
            self.b.store(zero, self._sum(position), 64)

"""Winograd convolution of images of a few pixels: the taps are transformed in registers.

A tile is a whole image, so that each transformed weight would be read for a few products only, and
from memory: there are up to four times as many of them as there are taps. So the taps stay as
they are. A vector of filters takes a vector's worth of channels of them at a time, which are near
while all lines of the transformed tile are multiplied. A line's weights are made of the taps at
each step, and its sums stay in registers for the channels of the block.

Chunks are panels of one vector of filters. Each transforms its image anew, which takes little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    open_function,
    strips,
)
from whet.codegen.kinds.register_tile import UNROLL
from whet.codegen.kinds.winograd_images import image_and_panels
from whet.codegen.kinds.winograd_matrices import tap_sum, transformed
from whet.codegen.kinds.winograd_scratch import filtering_of, static
from whet.codegen.writing.builder import F32, Builder, Module, Value, const, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import ACCUMULATOR, Winograd
from whet.kernel.winograd_filtering import SIDE, TAPS, Filtering
from whet.target import Target


def whole_scratch(kernel: Winograd, lanes: int) -> int:
    """Return bytes of scratch of one thread: a transformed image and the sums of a panel."""
    return 4 * filtering_of(kernel).span ** 2 * (static(kernel.depth.extent) + lanes)


def write_whole(
    module: Module, name: str, kernel: Winograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution whose tiles are images."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    adds = target.products_per_cycle == 1
    writer = _Writer(kernel, fn, filtering_of(kernel), target.lanes, adds)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: Winograd
    fn: Function
    filtering: Filtering
    width: int
    adds: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def depth(self) -> int:
        return static(self.kernel.depth.extent)

    @property
    def positions(self) -> int:
        """Products of a pair of channels."""
        return self.filtering.span**2

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write one chunk: an image and a block of panels."""
        b, kernel = self.b, self.kernel
        image, panels = image_and_panels(b, kernel, self.width, chunk)
        bound = frame.bind(kernel.image, image)
        self._transform_in(bound)
        with b.loop(*panels, hint="panel") as panel:
            self._clear()
            with b.loop(i64(0), i64(self.depth), self.width, hint="depth") as channel:
                for kind in range(self.filtering.kinds):
                    self._products(panel, channel, kind)
            self._transform_out(bound, panel)

    # -- input -------------------------------------------------------------------------------

    def _transform_in(self, frame: Frame) -> None:
        """Transform all channels of an image into scratch."""
        b, kernel, matrix = self.b, self.kernel, self.filtering.inputs
        bound = frame
        inside = []
        for axis, pad in zip((kernel.y, kernel.x), kernel.pads, strict=True):
            bound = bound.bind(axis, i64(-pad))
            inside.append([k for k in range(len(matrix[0])) if 0 <= k - pad < static(axis.extent)])
        down, across = ([[line[k] for k in near] for line in matrix] for near in inside)

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            columns = [
                transformed(b, down, [self._pixel(inner, (i, j)) for i in inside[0]])
                for j in inside[1]
            ]
            rows = [transformed(b, across, row) for row in zip(*columns, strict=True)]
            channel = inner.env[kernel.depth]
            for position, value in enumerate(v for row in rows for v in row):
                b.store(value, self._input(channel, position), 64)

        strips(bound, kernel.depth, self.width, strip)

    def _pixel(self, frame: Frame, at: tuple[int, int]) -> Value:
        """Return a vector of channels of one pixel."""
        kernel = self.kernel
        shift = {kernel.y: at[0], kernel.x: at[1]}
        return Point(frame, kernel.depth, self.width, shift=shift).value(kernel.a)

    # -- products ----------------------------------------------------------------------------

    def _products(self, panel: Value, channel: Value, kind: int) -> None:
        """Multiply the lines of one kind by a vector's worth of channels, and add to their sums."""
        b, filtering = self.b, self.filtering
        type_ = vector(F32, self.width)
        lines = filtering.products_of(kind)
        numbers = [line * filtering.span + k for line in lines for k in range(filtering.span)]
        cells = {number: b.alloca(type_) for number in numbers}
        for number, cell in cells.items():
            b.store(b.load(type_, self._sum(number), 64), cell, 64)
        with b.loop(i64(0), i64(self.width), UNROLL, hint="k") as k:
            self._fetch_ahead(panel, channel, b.add(k, i64(kind * self.width)))
            sums = {number: b.load(type_, cell, 64) for number, cell in cells.items()}
            for u in range(UNROLL):
                self._step((panel, channel), b.add(k, i64(u)), kind, sums)
            for number, cell in cells.items():
                b.store(sums[number], cell, 64)
        for number, cell in cells.items():
            b.store(b.load(type_, cell, 64), self._sum(number), 64)

    def _step(self, at: tuple[Value, Value], k: Value, kind: int, sums: dict[int, Value]) -> None:
        """Add one channel's products to the sums of the lines of a kind."""
        b, filtering = self.b, self.filtering
        taps = self._taps(*at, k)
        inputs = b.gep(self._input(at[1], 0), F32, k)
        side = [
            self._weight(filtering.filters[kind], [(taps, SIDE * i + j) for i in range(SIDE)])
            for j in range(SIDE)
        ]
        for column_kind, factors in enumerate(filtering.filters):
            weight = tap_sum(b, factors, side, adds=self.adds)
            for number in sums:
                if filtering.weight_of[number % filtering.span] == column_kind:
                    value = b.load(F32, b.gep(inputs, F32, number * self.width))
                    sums[number] = b.fma(b.splat(value, self.width), weight, sums[number])

    def _weight(self, factors: Sequence[float], places: Sequence[tuple[Value, int]]) -> Value:
        """Return taps below each other, transformed for a line; those without a factor not read."""
        b, type_ = self.b, vector(F32, self.width)
        absent = const(type_, 0.0)
        taps = [
            b.load(type_, b.gep(start, F32, tap * self.width), 64) if factor else absent
            for factor, (start, tap) in zip(factors, places, strict=True)
        ]
        return tap_sum(b, factors, taps, adds=self.adds)

    def _taps(self, panel: Value, channel: Value, k: Value) -> Value:
        """Return where the taps of a panel begin at a channel and so many behind it."""
        b = self.b
        number = b.add(b.mul(panel, i64(self.depth)), channel)
        start = b.gep(
            self.fn.params[self.kernel.weights], F32, b.mul(number, i64(TAPS * self.width))
        )
        return b.gep(start, F32, b.mul(k, i64(TAPS * self.width)))

    def _fetch_ahead(self, panel: Value, channel: Value, step: Value) -> None:
        """Bring part of the next channels' taps into the second cache."""
        b, lines = self.b, self.kernel.tile.prefetch
        if not lines:
            return
        following = self._taps(panel, channel, i64(self.width))
        at = b.gep(following, "i8", b.mul(b.divide(step, UNROLL)[0], i64(LINE_BYTES * lines)))
        for line in range(lines):
            b.prefetch(b.gep(at, "i8", LINE_BYTES * line))

    # -- output ------------------------------------------------------------------------------

    def _transform_out(self, frame: Frame, panel: Value) -> None:
        """Transform the sums of a panel back, and write all pixels of the image."""
        b, kernel, matrix = self.b, self.kernel, self.filtering.outputs
        span, type_ = self.filtering.span, vector(F32, self.width)
        low = b.mul(panel, i64(self.width))
        high = b.min(b.add(low, i64(self.width)), i64(static(kernel.col.extent)))
        bound = frame.bind(kernel.rows, i64(0)).bind(kernel.cols, i64(0))

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            lines = [
                transformed(
                    b, matrix, [b.load(type_, self._sum(k * span + n), 64) for n in range(span)]
                )
                for k in range(span)
            ]
            for j, column in enumerate(zip(*lines, strict=True)):
                for i, value in enumerate(transformed(b, matrix, column)):
                    shift = {kernel.rows: i, kernel.cols: j}
                    point = Point(inner, kernel.col, self.width, mask, shift, {ACCUMULATOR: value})
                    for store in kernel.stores:
                        point.store(store)

        strips(bound, kernel.col, self.width, strip, span=(low, high))

    # -- scratch -----------------------------------------------------------------------------

    def _input(self, channel: Value, position: int) -> Value:
        """Return where transformed channels lie, as [vectors of channels, positions, lanes]."""
        b = self.b
        start = b.gep(self.fn.scratch, F32, b.mul(channel, i64(self.positions)))
        return b.gep(start, F32, position * self.width)

    def _sum(self, position: int) -> Value:
        """Return where the sum of a position lies, behind the inputs, as [positions, lanes]."""
        offset = self.positions * self.depth + position * self.width
        return self.b.gep(self.fn.scratch, F32, offset)

    def _clear(self) -> None:
        zero = const(vector(F32, self.width), 0.0)
        for position in range(self.positions):
            self.b.store(zero, self._sum(position), 64)

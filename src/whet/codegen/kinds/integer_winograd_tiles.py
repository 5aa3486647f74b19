"""Transforms of a Winograd convolution of integers: pixels, taps and sums, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whet.codegen.kinds.integer_matrices import integer_transform, of_parity, of_size
from whet.codegen.kinds.integer_winograd_scratch import (
    Group,
    IntegerScratch,
    apart_of,
)
from whet.codegen.kinds.kernel_function import Function, lane_mask, strips
from whet.codegen.writing.builder import PTR, Builder, Value, const, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.halves import store_scratch
from whet.kernel.integer_filtering import INVERSE, LARGE, SIDES, TileSide, Tiling
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.spec import ACCUMULATOR

FLIP = -128
BYTE_VALUES = 256

Kind = tuple[TileSide, TileSide]
"""A tile's sides, down and across."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A tile: its number in the block, its line and its column in the image."""

    slot: Value
    row: Value
    column: Value


@dataclass(frozen=True, slots=True)
class Transforms:
    """Writes the transforms of a kernel.

    Attributes:
        kernel: the convolution.
        fn: the function being written.
        scratch: what lies where.
        table: where each pixel of a tile is.
    """

    kernel: IntegerWinograd
    fn: Function
    scratch: IntegerScratch
    table: Value

    @property
    def _b(self) -> Builder:
        return self.fn.b

    @property
    def _width(self) -> int:
        return self.scratch.lanes

    # -- pixels ------------------------------------------------------------------------------

    def write_outside(self) -> None:
        """Write the pixel that is outside the image."""
        b, kind = self._b, vector("i8", 2 * self._width)
        fill = self.kernel.fill - BYTE_VALUES * (self.kernel.fill >= BYTE_VALUES // 2)
        if self.kernel.flips:
            fill ^= FLIP
        with b.loop(i64(0), i64(self.scratch.depth), 2 * self._width, hint="fill") as channel:
            b.store(const(kind, fill), b.gep(self._outside, "i8", channel))

    @property
    def _outside(self) -> Value:
        return self._b.gep(self.fn.scratch, "i8", self.scratch.fill_start)

    def inputs(self, frame: Frame, spot: Spot) -> None:
        """Transform a tile of all channels into scratch."""
        for kind in self._kinds(spot):
            self._find_pixels(frame, spot, kind)
            starts = {g.first: self._input(g, spot) for g in self.scratch.groups}
            self._strips(frame, kind, starts)

    def _strips(self, frame: Frame, kind: Kind, starts: dict[int, Value]) -> None:
        """Transform all channels of a tile whose pixels were found."""

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            self._transform_pixels(inner.env[self.kernel.depth], mask, kind, starts)

        strips(frame, self.kernel.depth, 2 * self._width, strip)

    def _transform_pixels(
        self, channel: Value, mask: Value | None, kind: Kind, starts: dict[int, Value]
    ) -> None:
        b, (down, across) = self._b, kind
        columns = [
            integer_transform(
                b,
                down.inputs,
                [self._pixel(i * across.span + j, channel, mask) for i in range(down.span)],
                of_parity,
            )
            for j in range(across.span)
        ]
        for u, row in enumerate(zip(*columns, strict=True)):
            for v, value in enumerate(integer_transform(b, across.inputs, row, of_parity)):
                group, offset = self._position(u, v, self.scratch.input_bytes)
                start = b.gep(starts[group.first], "i16", channel)
                store_scratch(b, value, b.gep(start, "i8", offset))

    def _find_pixels(self, frame: Frame, spot: Spot, kind: Kind) -> None:
        """Write down where each pixel of a tile is, or that it is outside."""
        b, kernel = self._b, self.kernel
        origin = frame
        for axis in (kernel.y, kernel.x, kernel.depth):
            origin = origin.bind(axis, i64(0))
        base = Point(origin).pointer(kernel.a)
        first = self._first(spot, kind)
        places: list[list[tuple[Value, Value]]] = []
        for side, axis, start, pad in zip(
            kind, (kernel.y, kernel.x), first, kernel.pads, strict=True
        ):
            stride = frame.scalar_index(kernel.a.address.coefficient(axis))
            extent = frame.scalar_index(axis.extent)
            found = [b.add(start, i64(k - pad)) for k in range(side.span)]
            places.append([(b.icmp("ult", p, extent), b.mul(p, stride)) for p in found])
        for i, (row_inside, row) in enumerate(places[0]):
            line = b.gep(base, "i8", row)
            for j, (inside, column) in enumerate(places[1]):
                pixel = b.gep(line, "i8", column)
                both = b.binary("and", row_inside, inside)
                where = b.select(both, pixel, self._outside)
                b.store(where, b.gep(self.table, PTR, i * kind[1].span + j), 8)

    def _pixel(self, number: int, channel: Value, mask: Value | None) -> Value:
        """Return a vector of channels of a pixel, widened."""
        b, kind = self._b, vector("i8", 2 * self._width)
        place = b.gep(b.load(PTR, b.gep(self.table, PTR, number), 8), "i8", channel)
        if mask is None:
            value = b.load(kind, place)
        else:
            value = b.masked_load(kind, place, mask, const(kind, 0))
        if self.kernel.flips:
            value = b.binary("xor", value, const(kind, FLIP))
        return b.cast("zext", value, vector("i16", 2 * self._width))

    # -- sums --------------------------------------------------------------------------------

    def outputs(self, frame: Frame, spot: Spot, panel: Value) -> None:
        """Transform the sums of a tile back, and write its pixels."""
        kernel = self.kernel
        for kind in self._kinds(spot):
            row, column = self._first(spot, kind)
            bound = frame.bind(kernel.rows, row).bind(kernel.cols, column)
            starts = {g.first: self._sums(g, spot) for g in self.scratch.groups}
            for inner, mask, lane in self._columns(bound, panel):
                self._transform_sums(inner, mask, lane, kind, starts)

    def _columns(self, frame: Frame, panel: Value) -> Iterator[tuple[Frame, Value | None, Value]]:
        """Yield the vectors of a panel, with a mask where some lanes have no column."""
        b, kernel = self._b, self.kernel
        low = b.mul(panel, i64(self.scratch.panel))
        columns = kernel.col.extent.constant
        assert columns is not None, "channels are static in Winograd kernels"
        high = b.min(b.add(low, i64(self.scratch.panel)), i64(columns))
        with b.loop(low, high, self._width, hint="column") as column:
            mask = None
            if columns % self._width:
                mask = lane_mask(b, b.binary("sub nsw", high, column), self._width)
            yield frame.bind(kernel.col, column), mask, b.binary("sub nsw", column, low)

    def _transform_sums(
        self,
        frame: Frame,
        mask: Value | None,
        lane: Value,
        kind: Kind,
        starts: dict[int, Value],
    ) -> None:
        b, (down, across) = self._b, kind

        def loaded(u: int, v: int) -> Value:
            group, offset = self._position(u, v, self.scratch.sum_bytes)
            start = b.gep(starts[group.first], "i32", lane)
            return b.load(vector("i32", self._width), b.gep(start, "i8", offset), 64)

        columns = [
            integer_transform(b, down.outputs, [loaded(u, v) for u in range(down.span)], of_size)
            for v in range(across.span)
        ]
        for i, row in enumerate(zip(*columns, strict=True)):
            for j, value in enumerate(integer_transform(b, across.outputs, row, of_size)):
                shift = down.shifts[i] + across.shifts[j]
                self._pixel_out(frame, mask, (i, j), self._divided(value, shift))

    def _divided(self, value: Value, shift: int) -> Value:
        """Divide by ``9 * 2**shift``, which leaves no rest."""
        b = self._b
        whole = b.binary("mul", value, const(value.type, INVERSE))
        return b.binary("ashr", whole, const(value.type, shift))

    def _pixel_out(
        self, frame: Frame, mask: Value | None, at: tuple[int, int], value: Value
    ) -> None:
        kernel = self.kernel
        shift = {kernel.rows: at[0], kernel.cols: at[1]}
        point = Point(frame, kernel.col, self._width, mask, shift, {ACCUMULATOR: value})
        for store in kernel.stores:
            point.store(store)

    # -- places ------------------------------------------------------------------------------

    def _kinds(self, spot: Spot) -> Iterator[Kind]:
        """Yield the sizes that tiles have, and write what is done where this one has them."""
        b, kernel = self._b, self.kernel
        for high in kernel.down.sizes:
            for wide in kernel.across.sizes:
                kind = SIDES[high], SIDES[wide]
                conditions = [
                    *self._is_size(kernel.down, high, spot.row),
                    *self._is_size(kernel.across, wide, spot.column),
                ]
                if not conditions:
                    yield kind
                    continue
                condition = conditions[0]
                for other in conditions[1:]:
                    condition = b.binary("and", condition, other)
                with b.when(condition):
                    yield kind

    def _is_size(self, side: Tiling, size: int, place: Value) -> list[Value]:
        if len(side.sizes) == 1:
            return []
        return [self._b.icmp("slt" if size == LARGE else "sge", place, i64(side.large))]

    def _first(self, spot: Spot, kind: Kind) -> tuple[Value, Value]:
        """Return the first output line and column of a tile."""
        b, kernel = self._b, self.kernel
        row, column = (
            b.add(b.mul(place, i64(side.size)), i64(0 if side.size == LARGE else tiling.large))
            for place, side, tiling in zip(
                (spot.row, spot.column), kind, (kernel.down, kernel.across), strict=True
            )
        )
        return row, column

    def _position(self, u: int, v: int, each: int) -> tuple[Group, int]:
        """Return the group of a position, and how far it is from the group's first one."""
        group = next(g for g in self.scratch.groups if (u, v) in g.places)
        return group, group.places.index((u, v)) * apart_of(group, each)

    def _input(self, group: Group, spot: Spot) -> Value:
        """Return where the inputs of a tile at the first position of a group begin."""
        start = self.scratch.input_start(group)
        return self._of_tile(group, spot, start, self.scratch.input_bytes)

    def _sums(self, group: Group, spot: Spot) -> Value:
        """Return where the sums of a tile at the first position of a group begin."""
        return self._of_tile(group, spot, self.scratch.sum_start(group), self.scratch.sum_bytes)

    def _of_tile(self, group: Group, spot: Spot, start: int, each: int) -> Value:
        b = self._b
        slot = self.scratch.slot(b, group, spot.slot, (spot.row, spot.column))
        return b.gep(b.gep(self.fn.scratch, "i8", start), "i8", b.mul(slot, i64(each)))

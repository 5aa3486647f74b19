"""Copies that exchange two axes: squares are read along one, transposed in registers, written.

Reading along the axis of the result alone would touch a cache line for each element and use it
again only after many others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.codegen.kinds.kernel_function import Function, bind_flat
from whet.codegen.writing.builder import Value, i64
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.transpose import transpose
from whet.index import Axis, Poly, ceil_div, product
from whet.kernel.expr import Var
from whet.kernel.spec import Nest, Store

Strip = Callable[[Frame, Value | None, Value | None], None]
"""``strip(frame, low, high)``: part of the lanes' axis at one point of the others."""

_LINE = "line"


def square_rows(nest: Nest, lanes: int) -> Poly:
    """Return the number of rows of squares: points of the outer axes times blocks of lines."""
    return product(a.extent for a in nest.axes[:-2]) * ceil_div(nest.axes[-2].extent, lanes)


class SquareWriter(msgspec.Struct, frozen=True):
    """Writes rows of squares.

    Attributes:
        nest: a copy; its source is contiguous along the axis next to the lanes.
        fn: the function being written.
        width: lanes of a vector.
        strip: writes what is in no square.
    """

    nest: Nest
    fn: Function
    width: int
    strip: Strip

    @property
    def _axes(self) -> tuple[Axis, Axis]:
        return self.nest.axes[-2], self.nest.axes[-1]

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write the rows of squares of one chunk."""
        b, grain = self.fn.b, self.nest.grain
        first = b.mul(number, i64(grain))
        rows = frame.scalar_index(square_rows(self.nest, self.width))
        with b.loop(first, b.min(b.add(first, i64(grain)), rows), hint="row") as row:
            self._row(frame, row)

    def _row(self, frame: Frame, number: Value) -> None:
        """Write a row of squares, or lines one by one where fewer are left."""
        b, (across, _) = self.fn.b, self._axes
        extent = frame.scalar_index(across.extent)
        blocks = frame.scalar_index(ceil_div(across.extent, self.width))
        bound = bind_flat(frame, self.nest.axes[:-2], b.binary("udiv", number, blocks))
        first = b.mul(b.binary("urem", number, blocks), i64(self.width))
        end = b.add(first, i64(self.width))
        b.either(
            b.icmp("sle", end, extent),
            lambda: self._squares(bound, first),
            lambda: self._lines(bound, (first, extent), None, None),
        )

    def _squares(self, frame: Frame, first: Value) -> None:
        b, (across, along) = self.fn.b, self._axes
        extent = frame.scalar_index(along.extent)
        whole = b.mul(b.binary("udiv", extent, i64(self.width)), i64(self.width))
        bound = frame.bind(across, first)
        with b.loop(i64(0), whole, self.width, hint="square") as place:
            self._square(bound.bind(along, place))
        with b.when(b.icmp("slt", whole, extent)):
            self._lines(frame, (first, b.add(first, i64(self.width))), whole, extent)

    def _square(self, frame: Frame) -> None:
        (store,), (across, along) = self.nest.stores, self._axes
        lines = [
            Point(frame, across, self.width, shift={along: k}).value(store.value)
            for k in range(self.width)
        ]
        moved = Store(store.param, store.address, Var(_LINE, store.value.dtype))
        for k, line in enumerate(transpose(self.fn.b, lines)):
            Point(frame, along, self.width, shift={across: k}, names={_LINE: line}).store(moved)

    def _lines(
        self, frame: Frame, span: tuple[Value, Value], low: Value | None, high: Value | None
    ) -> None:
        with self.fn.b.loop(*span, hint="line") as position:
            self.strip(frame.bind(self._axes[0], position), low, high)

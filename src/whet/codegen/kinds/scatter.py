"""Scatters: a fill, then the updates in order, each only if its place exists."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    open_function,
    strips,
)
from whet.codegen.writing.builder import Builder, Module, Value, i64
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Axis, Poly, ceil_div, product, proved
from whet.kernel.expr import IndexValue
from whet.kernel.scatter import Scatter
from whet.kernel.spec import Store
from whet.target import Target


def scatter_chunks(kernel: Scatter, lanes: int) -> Poly:
    """Return the number of chunks of a scatter."""
    return ceil_div(product(a.extent for a, _ in kernel.shared), kernel.grain)


def write_scatter(
    module: Module, name: str, kernel: Scatter, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a scatter."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    places = [IndexValue(c.index, "int64") for c in kernel.inside]
    stores = (kernel.start, *(s for u in kernel.updates for s in u.stores))
    frame = frame_of(fn, kernel.params, accesses_of(places, stores))
    writer = _Writer(kernel, fn, target.lanes)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    kernel: Scatter
    fn: Function
    width: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write the loop over one chunk's rows."""
        b, kernel = self.b, self.kernel
        rows = tuple(a for a, _ in kernel.shared)
        points = frame.scalar_index(product(a.extent for a in rows))
        first = b.mul(chunk, i64(kernel.grain))
        last = b.min(b.add(first, i64(kernel.grain)), points)
        with b.loop(first, last, hint="row") as row:
            inner = bind_flat(frame, rows, row)
            if not kernel.in_place:
                self._loops(inner, kernel.fill, kernel.wide_fill, partial(_store, (kernel.start,)))
            self._updates(inner)

    def _updates(self, frame: Frame) -> None:
        """Write all updates of a row, which has none if the updates have fewer rows."""
        b, missing = self.b, None
        for axis, own in self.kernel.shared:
            row = frame.env[axis]
            if not proved(own.extent - axis.extent, 0, from_zero=True):
                short = b.icmp("sge", row, frame.scalar_index(own.extent))
                missing = short if missing is None else b.binary("or", missing, short)
            frame = frame.bind(own, row)
        if missing is None:
            self._apply(frame)
            return
        with b.when(b.icmp("eq", missing, Value("false", "i1"))):
            self._apply(frame)

    def _apply(self, frame: Frame) -> None:
        self._loops(frame, self.kernel.axes, False, lambda p: self._inside(p, self._change))

    def _change(self, frame: Frame) -> None:
        for update in self.kernel.updates:
            self._loops(frame, update.axes, update.wide, partial(_store, update.stores))

    def _inside(self, point: Point, body: Callable[[Frame], None]) -> None:
        """Write a body that runs only if the update's place exists."""
        if not self.kernel.inside:
            body(point.frame)
            return
        with self.b.when(point.holds(self.kernel.inside)):
            body(point.frame)

    def _loops(
        self, frame: Frame, axes: tuple[Axis, ...], wide: bool, body: Callable[[Point], None]
    ) -> None:
        """Write loops over axes in order, the last in lanes if it is wide."""
        if not axes:
            body(Point(frame))
        elif wide and len(axes) == 1:
            strips(frame, axes[0], self.width, self._strip(axes[0], body))
        else:
            with self.b.loop(i64(0), frame.scalar_index(axes[0].extent)) as position:
                self._loops(frame.bind(axes[0], position), axes[1:], wide, body)

    def _strip(
        self, axis: Axis, body: Callable[[Point], None]
    ) -> Callable[[Frame, Value | None, int], None]:
        def strip(frame: Frame, mask: Value | None, vectors: int) -> None:
            body(Point(frame, axis, self.width, mask))

        return strip


def _store(stores: tuple[Store, ...], point: Point) -> None:
    for store in stores:
        point.store(store)

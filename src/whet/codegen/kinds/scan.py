"""Scans: one total for each lane, which every step adds to and stores."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    open_function,
    strips,
)
from whet.codegen.writing.builder import Builder, Module, Value, const, i64, vector
from whet.codegen.writing.conversions import register_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.operations import combine
from whet.index import Poly, ceil_div, product
from whet.kernel.scan import Scan
from whet.kernel.semantics import identity_of
from whet.kernel.spec import ACCUMULATOR
from whet.target import Target


def scan_chunks(kernel: Scan, lanes: int) -> Poly:
    """Return the number of chunks of a scan."""
    points = product(a.extent for a in kernel.outer)
    if kernel.block:
        assert kernel.lane is not None, "blocks run along lanes"
        return points * ceil_div(kernel.lane.extent, kernel.block)
    return ceil_div(points, kernel.grain)


def write_scan(
    module: Module, name: str, kernel: Scan, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a scan."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([kernel.term], kernel.stores))
    writer = _Writer(kernel, fn, target.lanes)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    kernel: Scan
    fn: Function
    width: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write the loops over one chunk's rows."""
        b, kernel = self.b, self.kernel
        if kernel.block:
            assert kernel.lane is not None, "blocks run along lanes"
            blocks = frame.scalar_index(ceil_div(kernel.lane.extent, kernel.block))
            low = b.mul(b.binary("urem", chunk, blocks), i64(kernel.block))
            extent = frame.scalar_index(kernel.lane.extent)
            high = b.min(b.add(low, i64(kernel.block)), extent)
            row = b.binary("udiv", chunk, blocks)
            self._row(bind_flat(frame, kernel.outer, row), low, high)
            return
        points = frame.scalar_index(product(a.extent for a in kernel.outer))
        first = b.mul(chunk, i64(kernel.grain))
        last = b.min(b.add(first, i64(kernel.grain)), points)
        with b.loop(first, last, hint="row") as row:
            self._row(bind_flat(frame, kernel.outer, row), None, None)

    def _row(self, frame: Frame, low: Value | None, high: Value | None) -> None:
        """Write one point of the outer axes, in strips along the lanes if there are any."""
        lane = self.kernel.lane
        if lane is None:
            self._steps(Point(frame))
            return

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            self._steps(Point(inner, lane, self.width, mask))

        strips(frame, lane, self.width, strip, span=(low, high))

    def _steps(self, start: Point) -> None:
        """Write all steps of a vector of rows, or of one."""
        b, kernel = self.b, self.kernel
        type_ = vector(register_type(kernel.dtype), start.width)
        total = b.alloca(type_)
        b.store(const(type_, identity_of(kernel.op, kernel.dtype)), total, 64)
        extent = start.frame.scalar_index(kernel.step.extent)
        with b.loop(i64(0), extent, hint="step") as step:
            point = replace(start, frame=start.frame.bind(kernel.step, step), memo={})
            before = b.load(type_, total, 64)
            after = combine(b, kernel.op, before, point.value(kernel.term), kernel.dtype)
            b.store(after, total, 64)
            point.names = {ACCUMULATOR: before if kernel.exclusive else after}
            for store in kernel.stores:
                point.store(store)

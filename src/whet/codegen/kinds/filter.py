"""Filters: elements are visited in order, and the positions of those that are kept written."""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    open_function,
)
from whet.codegen.writing.builder import I1, Builder, Module, Value, i64
from whet.codegen.writing.control import counted, leave, repeat, variable
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.rows import Positions, fill_of
from whet.index import Poly, product
from whet.kernel.filter import Filter
from whet.target import Target

FALSE = Value("false", I1)


def filter_chunks(kernel: Filter, lanes: int) -> Poly:
    """Return the number of chunks of a filter."""
    return product(a.extent for a in kernel.outer)


def write_filter(
    module: Module, name: str, kernel: Filter, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a filter."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    reads = [e for e in (kernel.keep, kernel.clash) if e is not None]
    store = fill_of(kernel.param, kernel.address)
    frame = frame_of(fn, kernel.params, accesses_of(reads, [store]))
    with fn.b.loop(fn.begin, fn.end, hint="row") as row:
        _Writer(kernel, fn, bind_flat(frame, kernel.outer, row)).row()
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    kernel: Filter
    fn: Function
    frame: Frame

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def positions(self) -> Positions:
        kernel = self.kernel
        return Positions(self.frame, kernel.rank, kernel.param, kernel.address)

    def row(self) -> None:
        """Write the filter of one row: a position is always stored, but counted only if kept."""
        b, positions = self.b, self.positions
        taken, element = variable(b, i64(0)), variable(b, i64(0))
        extent, capacity = self.frame.scalar_index(self.kernel.along.extent), positions.capacity

        def more() -> Value:
            room = b.icmp("slt", taken.get(), capacity)
            return b.binary("and", room, b.icmp("slt", element.get(), extent))

        with repeat(b, more, "element"):
            here = element.get()
            frame = self.frame.bind(self.kernel.along, here)
            kept = variable(b, Point(frame).scalar(self.kernel.keep))
            if self.kernel.clash is not None:
                with b.when(kept.get()):
                    kept.set(self._is_free(frame, taken.get()))
            positions.set(taken.get(), here)
            taken.increment(b.cast("zext", kept.get(), "i64"))
            element.increment()
        positions.clear(taken.get())

    def _is_free(self, frame: Frame, taken: Value) -> Value:
        """Return whether an element clashes with none of those kept before."""
        b, kernel = self.b, self.kernel
        assert kernel.clash is not None
        free = variable(b, Value("true", I1))
        with counted(b, i64(0), taken, "kept") as (rank, done):
            other = frame.bind(kernel.other, self.positions.get(rank))
            clashes = Point(other).scalar(kernel.clash)
            free.set(b.select(clashes, FALSE, free.get()))
            leave(b, clashes, done)
        return free.get()

"""Sorts: the first few elements are kept in a heap, the last of them at its root, then sorted.

The heap lies in the result, so that neither the length of a row nor the number of ranks has to be
known when compiling. A row of n elements, k of them wanted, takes n log k comparisons at worst;
most of them are with the root, in lanes.
"""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    open_function,
)
from whet.codegen.writing.builder import I1, Builder, Module, Value, const, i64
from whet.codegen.writing.control import Variable, counted, leave, repeat, variable
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.ordinal import ordinal
from whet.codegen.writing.rows import Positions, fill_of
from whet.index import Poly, product
from whet.kernel.sort import Sort
from whet.target import Target

TRUE = Value("true", I1)
UNROLL = 4
"""Vectors of keys that are compared with the root before a branch."""


def sort_chunks(kernel: Sort, lanes: int) -> Poly:
    """Return the number of chunks of a sort."""
    return product(a.extent for a in kernel.outer)


def write_sort(
    module: Module, name: str, kernel: Sort, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a sort."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    reads = [kernel.key, *([] if kernel.kept is None else [kernel.kept])]
    store = fill_of(kernel.param, kernel.address)
    frame = frame_of(fn, kernel.params, accesses_of(reads, [store]))
    with fn.b.loop(fn.begin, fn.end, hint="row") as row:
        _Writer(kernel, fn, bind_flat(frame, kernel.outer, row), target.lanes).row()
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    kernel: Sort
    fn: Function
    frame: Frame
    width: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def positions(self) -> Positions:
        kernel = self.kernel
        return Positions(self.frame, kernel.rank, kernel.param, kernel.address)

    def row(self) -> None:
        """Write the sort of one row."""
        b = self.b
        taken, seen = self._fill()
        count = taken.get()
        self.positions.clear(count)
        half = b.binary("lshr", count, i64(1))
        with b.loop(i64(0), half, hint="heap") as k:
            self._sift(b.binary("sub nsw", b.binary("sub nsw", half, i64(1)), k), count)
        with b.when(b.icmp("sgt", count, i64(0))):
            self._select(seen, count)
            self._order(count)

    # -- which elements are among the first --------------------------------------------------

    def _fill(self) -> tuple[Variable, Value]:
        """Take elements until all ranks are taken; returns how many, and the next element."""
        b, positions = self.b, self.positions
        taken, next_ = variable(b, i64(0)), variable(b, i64(0))
        capacity, extent = positions.capacity, self._extent()

        def more() -> Value:
            room = b.icmp("slt", taken.get(), capacity)
            return b.binary("and", room, b.icmp("slt", next_.get(), extent))

        with repeat(b, more, "fill"):
            element = next_.get()
            positions.set(taken.get(), element)
            taken.increment(b.cast("zext", self._is_kept(element), "i64"))
            next_.increment()
        return taken, next_.get()

    def _extent(self) -> Value:
        return self.frame.scalar_index(self.kernel.along.extent)

    def _is_kept(self, element: Value) -> Value:
        kept = self.kernel.kept
        return TRUE if kept is None else Point(self._at(element)).scalar(kept)

    def _at(self, element: Value) -> Frame:
        return self.frame.bind(self.kernel.along, element)

    def _select(self, first: Value, count: Value) -> None:
        """Let each of the other elements take the root's place if it comes before that.

        Few do; blocks of vectors in which none does are passed over.
        """
        b, extent = self.b, self._extent()
        if self.kernel.wide and self.width > 1:
            size = self.width * UNROLL
            rest = b.binary("srem", b.binary("sub nsw", extent, first), i64(size))
            full = b.binary("sub nsw", extent, rest)
            root = variable(b, self._root())
            with b.loop(first, full, size, hint="block") as start:
                some = self._any_before(start, b.splat(root.get(), self.width))
                with b.when(some):
                    with b.loop(start, b.add(start, i64(size)), hint="element") as element:
                        self._offer(element, count)
                    root.set(self._root())
            first = full
        with b.loop(first, extent, hint="element") as element:
            self._offer(element, count)

    def _root(self) -> Value:
        return self._key(self.positions.get(i64(0)), i64(0))

    def _any_before(self, start: Value, root: Value) -> Value:
        """Return whether any element of a block comes before the root, kept or not."""
        b, kernel = self.b, self.kernel
        frame = self._at(start).bind(kernel.depth, i64(0))
        better: Value | None = None
        for k in range(UNROLL):
            lanes = Point(frame, kernel.along, self.width, shift={kernel.along: k * self.width})
            value = lanes.value(kernel.key)
            key = ordinal(b, value, kernel.key.dtype, descending=kernel.descending)
            before = b.icmp("slt", key, root)
            better = before if better is None else b.binary("or", better, before)
        assert better is not None
        bits = b.op(f"bitcast {better} to i{self.width}", f"i{self.width}")
        return b.icmp("ne", bits, const(bits.type, 0))

    def _offer(self, element: Value, count: Value) -> None:
        b = self.b
        before = self._before(element, self.positions.get(i64(0)))
        with b.when(b.binary("and", before, self._is_kept(element))):
            self.positions.set(i64(0), element)
            self._sift(i64(0), count)

    # -- the heap ----------------------------------------------------------------------------

    def _order(self, count: Value) -> None:
        """Turn the heap into a sorted row, from the end."""
        b, positions = self.b, self.positions
        with b.loop(i64(1), count, hint="last") as k:
            last = b.binary("sub nsw", count, k)
            root, other = positions.get(i64(0)), positions.get(last)
            positions.set(last, root)
            positions.set(i64(0), other)
            self._sift(i64(0), last)

    def _sift(self, root: Value, count: Value) -> None:
        """Move an element down until both elements below it come before it."""
        b, positions = self.b, self.positions
        hole, item = variable(b, root), positions.get(root)

        def left() -> Value:
            return b.add(b.mul(hole.get(), i64(2)), i64(1))

        with repeat(b, lambda: b.icmp("slt", left(), count), "sift") as done:
            child = variable(b, left())
            right = b.add(child.get(), i64(1))
            with b.when(b.icmp("slt", right, count)):
                later = self._before(positions.get(child.get()), positions.get(right))
                child.set(b.select(later, right, child.get()))
            below = positions.get(child.get())
            leave(b, self._before(below, item), done)
            positions.set(hole.get(), below)
            hole.set(child.get())
        positions.set(hole.get(), item)

    # -- comparing ---------------------------------------------------------------------------

    def _before(self, i: Value, j: Value) -> Value:
        """Return whether element ``i`` comes before element ``j``."""
        b, depth = self.b, self.kernel.depth
        lower = b.icmp("slt", i, j)
        if depth.extent == 1:
            return self._decided(i, j, i64(0), lower)
        result = variable(b, lower)
        extent = self.frame.scalar_index(depth.extent)
        with counted(b, i64(0), extent, "depth") as (k, done):
            x, y = self._key(i, k), self._key(j, k)
            result.set(b.select(b.icmp("ne", x, y), b.icmp("slt", x, y), lower))
            leave(b, b.icmp("ne", x, y), done)
        return result.get()

    def _decided(self, i: Value, j: Value, k: Value, tied: Value) -> Value:
        b = self.b
        x, y = self._key(i, k), self._key(j, k)
        return b.select(b.icmp("eq", x, y), tied, b.icmp("slt", x, y))

    def _key(self, element: Value, k: Value) -> Value:
        kernel = self.kernel
        frame = self._at(element).bind(kernel.depth, k)
        value = Point(frame).scalar(kernel.key)
        return ordinal(self.b, value, kernel.key.dtype, descending=kernel.descending)

"""Sorts of whole rows: keys as integers, put in order by one byte after the other.

Each pass counts how often every value of a byte occurs and moves keys and positions to where those
with smaller values end; what was in order stays in order. A byte that is the same in all keys, as
the upper ones of small integers are, takes no pass. n elements of w bytes take w n moves, whatever
they are, where a heap takes n log n comparisons that miss the cache.
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
from whet.codegen.writing.builder import I1, I64, Builder, Module, Value, const, i64
from whet.codegen.writing.control import Variable, variable
from whet.codegen.writing.conversions import storage_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.ordinal import ordinal
from whet.codegen.writing.rows import Positions, fill_of
from whet.dtypes import DTYPES
from whet.index import Poly, as_poly, product
from whet.kernel.sort import RadixSort
from whet.target import Target

DIGIT = 8
VALUES = 1 << DIGIT


def radix_sort_chunks(kernel: RadixSort, lanes: int) -> Poly:
    """Return the number of chunks of a sort: one for each line of its workspace."""
    return as_poly(kernel.lines)


def write_radix_sort(
    module: Module, name: str, kernel: RadixSort, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a sort."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    reads = [kernel.key, *([] if kernel.kept is None else [kernel.kept])]
    store = fill_of(kernel.param, kernel.address)
    frame = frame_of(fn, kernel.params, accesses_of(reads, [store]))
    b = fn.b
    counts = b.alloca(f"[{VALUES} x {I64}]")
    rows = frame.scalar_index(product(a.extent for a in kernel.outer))
    with (
        b.loop(fn.begin, fn.end, hint="line") as line,
        b.loop(line, rows, kernel.lines, hint="row") as row,
    ):
        inner = bind_flat(frame, kernel.outer, row)
        _Writer(kernel, fn, inner, counts, _Lists.of(kernel, fn, inner, line)).row()
    b.finish()


class _Lists(msgspec.Struct, frozen=True):
    """Keys and positions, twice: as they are, and room for them in their next order."""

    key_type: str
    keys: Variable
    places: Variable
    next_keys: Variable
    next_places: Variable

    @staticmethod
    def of(kernel: RadixSort, fn: Function, frame: Frame, line: Value) -> _Lists:
        """Return the lists in a line of the workspace."""
        b = fn.b
        extent = frame.scalar_index(kernel.along.extent)
        start = b.mul(b.mul(line, i64(2)), extent)
        kind = storage_type(kernel.params[kernel.keys].dtype)
        found = []
        for param, type_ in ((kernel.keys, kind), (kernel.places, I64)):
            first = b.gep(fn.params[param], type_, start)
            found.append((variable(b, first), variable(b, b.gep(first, type_, extent))))
        (keys, next_keys), (places, next_places) = found
        return _Lists(kind, keys, places, next_keys, next_places)

    def swap(self) -> None:
        """Make the next order the one that counts."""
        for one, other in ((self.keys, self.next_keys), (self.places, self.next_places)):
            first, second = one.get(), other.get()
            one.set(second)
            other.set(first)


class _Writer(msgspec.Struct, frozen=True):
    kernel: RadixSort
    fn: Function
    frame: Frame
    counts: Value
    lists: _Lists

    @property
    def b(self) -> Builder:
        return self.fn.b

    def row(self) -> None:
        """Write the sort of one row."""
        b, kernel, lists = self.b, self.kernel, self.lists
        count = self._fill()
        bits = DTYPES[kernel.params[kernel.keys].dtype].bits
        with (
            b.when(b.icmp("sgt", count, i64(1))),
            b.loop(i64(0), i64(bits), DIGIT, hint="byte") as shift,
        ):
            self._pass(b.cast("trunc", shift, lists.key_type), count)
        positions = Positions(self.frame, kernel.rank, kernel.param, kernel.address)
        wanted = b.min(count, positions.capacity)
        source = lists.places.get()
        with b.loop(i64(0), wanted, hint="rank") as rank:
            positions.set(rank, b.load(I64, b.gep(source, I64, rank)))
        positions.clear(wanted)

    def _fill(self) -> Value:
        """Write the keys of all elements that take part; returns how many there are."""
        b, kernel, lists = self.b, self.kernel, self.lists
        keys, places, taken = lists.keys.get(), lists.places.get(), variable(b, i64(0))
        bits = DTYPES[kernel.params[kernel.keys].dtype].bits
        sign = const(lists.key_type, -(1 << (bits - 1)))
        extent = self.frame.scalar_index(kernel.along.extent)
        with b.loop(i64(0), extent, hint="element") as element:
            point = Point(self.frame.bind(kernel.along, element))
            value = point.scalar(kernel.key)
            key = ordinal(b, value, kernel.key.dtype, descending=kernel.descending)
            at = taken.get()
            b.store(b.binary("xor", key, sign), b.gep(keys, lists.key_type, at))
            b.store(element, b.gep(places, I64, at))
            kept = Value("true", I1) if kernel.kept is None else point.scalar(kernel.kept)
            taken.increment(b.cast("zext", kept, I64))
        return taken.get()

    def _pass(self, shift: Value, count: Value) -> None:
        """Put all elements in the order of one byte, unless that is the same in all."""
        b, lists = self.b, self.lists
        zeros = const(f"<8 x {I64}>", 0)
        with b.loop(i64(0), i64(VALUES), 8, hint="clear") as value:
            b.store(zeros, b.gep(self.counts, I64, value), 8)
        keys = lists.keys.get()
        with b.loop(i64(0), count, hint="count") as element:
            self._next(self._counter(keys, element, shift))
        first = b.load(I64, self._counter(keys, i64(0), shift), 8)
        with b.when(b.icmp("ne", first, count)):
            self._sum_counts()
            self._move(keys, shift, count)
            lists.swap()

    def _counter(self, keys: Value, element: Value, shift: Value) -> Value:
        """Return the address of the count for the byte of a key."""
        b, kind = self.b, self.lists.key_type
        key = b.load(kind, b.gep(keys, kind, element))
        byte = b.binary("and", b.binary("lshr", key, shift), const(kind, VALUES - 1))
        return b.gep(self.counts, I64, b.cast("zext", byte, I64))

    def _next(self, counter: Value) -> Value:
        """Add one to a count; returns what it was."""
        before = self.b.load(I64, counter, 8)
        self.b.store(self.b.add(before, i64(1)), counter, 8)
        return before

    def _sum_counts(self) -> None:
        """Turn counts into the place where the first element of each value goes."""
        b, total = self.b, variable(self.b, i64(0))
        with b.loop(i64(0), i64(VALUES), hint="sum") as value:
            counter = b.gep(self.counts, I64, value)
            own, before = b.load(I64, counter, 8), total.get()
            b.store(before, counter, 8)
            total.increment(own)

    def _move(self, keys: Value, shift: Value, count: Value) -> None:
        b, lists, kind = self.b, self.lists, self.lists.key_type
        places, to_keys = lists.places.get(), lists.next_keys.get()
        to_places = lists.next_places.get()
        with b.loop(i64(0), count, hint="move") as element:
            at = self._next(self._counter(keys, element, shift))
            b.store(b.load(kind, b.gep(keys, kind, element)), b.gep(to_keys, kind, at))
            b.store(b.load(I64, b.gep(places, I64, element)), b.gep(to_places, I64, at))

"""Rows of a paired product in scratch: divided by their size, with the sums of their own pairs."""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import Function, bind_flat, lane_mask
from whet.codegen.writing.builder import F32, I32, I64, Builder, Value, const, i64, lanes, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Axis, product
from whet.kernel.expr import Read
from whet.kernel.pairs import BLOCKS, groups_of, sign_of
from whet.kernel.spec import Contraction

LINE = 64
MANTISSA = 23
EXPONENTS = 254
"""The sum of the exponent fields of a power of two and its inverse."""
NOT_FINITE = 255
"""The exponent field of infinities and of what is not a number."""
LARGE = 227
"""The exponent field that rows with such values are divided by: 2**100."""
NOT_NEGATIVE = 2**31 - 1
NUMBERS = 3
"""Numbers of a row: what it was divided by, what its sums begin with, the inverse of the first."""
TOGETHER = 4
"""Rows that are written together."""
Picked = tuple[int, int, int, int]
"""Lanes of two vectors of four."""


class PackedRows(msgspec.Struct, frozen=True):
    """Writes the rows of register tiles to scratch, and tells where they are.

    A tile's slot holds what its rows were divided by, what their sums begin with, how much of the
    depth is in pairs, which is nothing where a row is not finite, and its values as [depth, rows]:
    values that a depth step reads one after the other are neighbours, as those at distances of
    whole lines could not be loaded in one cycle. Taps are part of the depth.

    Attributes:
        kernel: the contraction.
        fn: the function being written.
        lanes: elements of a vector, and of a block of the depth.
    """

    kernel: Contraction
    fn: Function
    lanes: int

    @property
    def _b(self) -> Builder:
        return self.fn.b

    @property
    def _type(self) -> str:
        return vector(F32, self.lanes)

    @property
    def depth(self) -> int:
        """Depth values of all taps."""
        return depth_of(self.kernel)

    @property
    def pitch(self) -> int:
        """Elements from a depth value to the next one of the same row."""
        return _pitch(self.kernel)

    # -- where things are --------------------------------------------------------------------

    def slot(self, number: Value) -> Value:
        """Return where a tile of the chunk is, by its number."""
        size = i64(slot_bytes(self.kernel, self.lanes))
        place = self._b.add(self._b.mul(number, size), i64(LINE))
        return self._b.gep(self.fn.scratch, "i8", place)

    def scale(self, slot: Value, row: Value | int) -> Value:
        """Return the place of what a row was divided by."""
        return self._number(slot, 0, row)

    def begin(self, slot: Value, row: Value | int) -> Value:
        """Return the place of what a row's sums begin with."""
        return self._number(slot, 1, row)

    def _inverse(self, slot: Value, row: Value | int) -> Value:
        return self._number(slot, 2, row)

    def _number(self, slot: Value, which: int, row: Value | int) -> Value:
        return self._b.gep(self._b.gep(slot, "i8", which * _line_bytes(self.kernel)), F32, row)

    def paired(self, slot: Value) -> Value:
        """Return the place of the depth up to which products are in pairs: 0 if rows forbid it."""
        return self._b.gep(slot, "i8", NUMBERS * _line_bytes(self.kernel))

    def values(self, slot: Value) -> Value:
        """Return where the rows' values begin."""
        return self._b.gep(slot, "i8", _head_bytes(self.kernel))

    @property
    def flag(self) -> Value:
        """Where it stands whether weights are not finite; the exponent of their size is next."""
        pairs, columns = self.kernel.pairs, self.kernel.col.extent.constant
        assert pairs is not None and columns is not None, "weights are known"
        behind = -(-columns // self.lanes) * self.lanes
        return self._b.gep(self.fn.params[pairs.squares], F32, behind)

    # -- writing rows ------------------------------------------------------------------------

    def write(self, frame: Frame, rows: int, slot: Value) -> None:
        """Write the rows of a tile whose first row is bound, four by four.

        All rows of a few blocks of the depth are written before the next ones, so that the lines
        that they share stay in the first cache.
        """
        b, size = self._b, BLOCKS * self.lanes
        b.store(i64(groups_of(self.depth, self.lanes) * size), self.paired(slot), 8)
        for first in range(0, self.pitch, self.lanes):
            b.store(const(self._type, 0.0), self.begin(slot, first), 4)
        with b.loop(i64(0), i64(rows), TOGETHER, hint="size") as number:
            self._sizes(_Rows(frame, slot, number, rows))
        groups = groups_of(self.depth, self.lanes)
        with b.loop(i64(0), i64(groups * size), size, hint="group") as depth:
            self._group(_Rows(frame, slot, i64(0), rows), depth)
        whole = self.depth - self.depth % self.lanes
        with b.loop(i64(groups * size), i64(whole), self.lanes, hint="block") as depth:
            self._blocks(_Rows(frame, slot, i64(0), rows), depth, 1)
        if whole < self.depth:
            self._blocks(_Rows(frame, slot, i64(0), rows), i64(whole), 1)

    def _sizes(self, rows: _Rows) -> None:
        """Write what four rows are divided by."""
        b = self._b
        cells = [self._zero() for _ in range(TOGETHER)]
        whole = self.depth - self.depth % self.lanes

        def add(depth: Value) -> None:
            for value, cell in zip(self._load(rows, depth), cells, strict=True):
                size = b.call_intrinsic("llvm.fabs", self._type, value)
                b.store(b.binary("fadd", b.load(self._type, cell, 64), size), cell, 64)

        with b.loop(i64(0), i64(whole), self.lanes, hint="strip") as depth:
            add(depth)
        if whole < self.depth:
            add(i64(whole))
        totals = self._sums([b.load(self._type, cell, 64) for cell in cells])
        b.store(self._invert(totals, rows), self._inverse(rows.slot, rows.number), 4)

    def _sums(self, rows: list[Value]) -> Value:
        """Return the sums of the lanes of four vectors, side by side."""
        b, short = self._b, []
        for value in rows:
            while (half := lanes(value.type) // 2) >= TOGETHER:
                parts = (range(half), range(half, 2 * half))
                low, high = (b.shuffle(value, list(part)) for part in parts)
                value = b.binary("fadd", low, high)
            short.append(value)
        one, two = (
            self._folded(short[k], short[k + 1], (0, 4, 1, 5), (2, 6, 3, 7)) for k in (0, 2)
        )
        return self._folded(one, two, (0, 1, 4, 5), (2, 3, 6, 7))

    def _folded(self, x: Value, y: Value, low: Picked, high: Picked) -> Value:
        """Return the sum of two choices from the lanes of two vectors."""
        b = self._b
        return b.binary("fadd", b.blend(x, y, list(low)), b.blend(x, y, list(high)))

    def _invert(self, totals: Value, rows: _Rows) -> Value:
        """Write what four rows are divided by, to be as large as the weights; return inverses."""
        b, type_ = self._b, vector(I32, TOGETHER)
        bits = b.binary("and", b.cast("bitcast", totals, type_), const(type_, NOT_NEGATIVE))
        field = b.binary("lshr", bits, const(type_, MANTISSA))
        unusual = b.icmp("eq", field, const(type_, NOT_FINITE))
        some = b.icmp("ne", b.cast("bitcast", unusual, f"i{TOGETHER}"), const(f"i{TOGETHER}", 0))
        with b.when(some):
            b.store(i64(0), self.paired(rows.slot), 8)
        size = b.cast("fptosi", b.load(F32, b.gep(self.flag, F32, 1), 4), I32)
        mean = b.binary("sub", field, const(type_, self.depth.bit_length() - 1))
        mean = b.binary("sub", mean, b.splat(size, TOGETHER))
        mean = b.min(b.max(mean, const(type_, 1)), const(type_, EXPONENTS - 1))
        mean = b.select(unusual, const(type_, LARGE), mean)
        zero = b.icmp("eq", bits, const(type_, 0))
        scale = b.select(zero, const(type_, 0), self._power(mean))
        b.store(scale, self.scale(rows.slot, rows.number), 4)
        inverse = self._power(b.binary("sub", const(type_, EXPONENTS), mean))
        return b.cast("bitcast", inverse, vector(F32, TOGETHER))

    def _power(self, field: Value) -> Value:
        """Return the bits of the powers of two that have exponent fields."""
        return self._b.binary("shl", field, const(field.type, MANTISSA))

    def _group(self, rows: _Rows, depth: Value) -> None:
        """Write three blocks of all rows, and what of their pairs sums begin with."""
        b, half = self._b, self.lanes // 2
        self._blocks(rows, depth, BLOCKS)
        for first in range(0, self.pitch, self.lanes):
            begin = self.begin(rows.slot, first)
            total = b.alloca(self._type)
            b.store(b.load(self._type, begin, 4), total, 64)
            for start in (0, half):
                with b.loop(i64(start), i64(start + half), hint="square") as lane:
                    one, two = (
                        b.add(depth, b.add(lane, i64(block * self.lanes)))
                        for block in range(1, BLOCKS)
                    )
                    x, y = (
                        b.load(self._type, self._place(rows.slot, place, i64(first)), 4)
                        for place in (one, two)
                    )
                    turned = sign_of(start, self.lanes) > 0
                    signed = b.op(f"fneg {x}", x.type) if turned else x
                    b.store(b.fma(signed, y, b.load(self._type, total, 64)), total, 64)
            b.store(b.load(self._type, total, 64), begin, 4)

    def _blocks(self, rows: _Rows, depth: Value, count: int) -> None:
        """Write some blocks of all rows, divided by their sizes."""
        b, lanes = self._b, self.lanes
        with b.loop(i64(0), i64(rows.count), TOGETHER, hint="rows") as number:
            four = msgspec.structs.replace(rows, number=number)
            inverses = [
                b.load(F32, self._inverse(rows.slot, b.add(number, i64(k))), 4)
                for k in range(TOGETHER)
            ]
            wide = [b.splat(v, lanes) for v in inverses]
            for block in range(count):
                place = b.add(depth, i64(block * lanes))
                values = [
                    b.binary("fmul", value, inverse)
                    for value, inverse in zip(self._load(four, place), wide, strict=True)
                ]
                self._store_turned(values, self._place(rows.slot, place, number))

    def _place(self, slot: Value, depth: Value, row: Value) -> Value:
        b = self._b
        return b.gep(self.values(slot), F32, b.add(b.mul(depth, i64(self.pitch)), row))

    def _store_turned(self, rows: list[Value], target: Value) -> None:
        """Store vectors of four rows so that the rows are neighbours."""
        b, lanes = self._b, self.lanes
        quads = range(0, lanes, TOGETHER)

        def zipped(x: Value, y: Value, width: int, start: int) -> Value:
            """Return runs of both in turn, of one half of each four elements."""
            runs = range(start, start + TOGETHER // 2, width)
            places = [quad + run + part for quad in quads for run in runs for part in (0, lanes)]
            return b.blend(x, y, [place + k for place in places for k in range(width)])

        for half in range(2):
            one, two = (zipped(rows[k], rows[k + 1], 1, 2 * half) for k in (0, 2))
            for part in range(2):
                four = zipped(one, two, 2, 2 * part)
                for quad in quads:
                    piece = b.shuffle(four, list(range(quad, quad + TOGETHER)))
                    depth = quad + 2 * half + part
                    b.store(piece, b.gep(target, F32, depth * self.pitch), 4)

    def _zero(self) -> Value:
        cell = self._b.alloca(self._type)
        self._b.store(const(self._type, 0.0), cell, 64)
        return cell

    # -- reading rows ------------------------------------------------------------------------

    def _load(self, rows: _Rows, depth: Value) -> list[Value]:
        """Load a block of four rows, of which those behind the last are the last one."""
        b, kernel = self._b, self.kernel
        each = kernel.depth.extent.constant
        assert each is not None, "paired products have a known depth"
        tap, place = (i64(0), depth) if each == self.depth else b.divide(depth, each)
        frame = bind_flat(rows.frame, kernel.taps, tap).bind(kernel.depth, place)
        left = self.depth - depth.known if depth.known is not None else self.lanes
        exist = lane_mask(b, i64(left), self.lanes) if left < self.lanes else None
        gate = None
        if kernel.gate is not None:
            gate = self._vector(Point(frame).pointer(kernel.gate), exist)
        found = []
        for k in range(TOGETHER):
            row = b.min(b.add(rows.number, i64(k)), i64(rows.count - 1))
            value = self._row(frame, row, exist)
            found.append(value if gate is None else b.binary("fmul", value, gate))
        return found

    def _row(self, frame: Frame, row: Value, exist: Value | None) -> Value:
        """Load a block of a row at the depth that is bound; zeros where it lies outside."""
        b, kernel = self._b, self.kernel
        pointer = self._pointer(frame, kernel.a, row)
        if kernel.second is not None:
            first = b.icmp("slt", frame.env[kernel.depth], i64(kernel.second.start))
            pointer = b.select(first, pointer, self._pointer(frame, kernel.second.a, row))
        conditions = (*kernel.bounds, *kernel.edges)
        if conditions:
            inside = b.splat(Point(self._moved(frame, row)).holds(conditions), self.lanes)
            exist = inside if exist is None else b.binary("and", exist, inside)
        return self._vector(pointer, exist)

    def _moved(self, frame: Frame, row: Value) -> Frame:
        """Return the place of a row, so many behind the first, for what depends on axes alone."""
        for axis, amount in self._shift(row):
            frame = frame.bind(axis, self._b.add(frame.env[axis], amount))
        return frame

    def _shift(self, row: Value) -> list[tuple[Axis, Value]]:
        """Return how far a row is from the first one, along the axes that rows have."""
        kernel = self.kernel
        if kernel.lines is None:
            return [(kernel.row, row)]
        length = kernel.row.extent.constant
        assert length is not None, "whole lines are of known length"
        line, place = self._b.divide(row, length)
        return [(kernel.outer[-1], line), (kernel.row, place)]

    def _pointer(self, frame: Frame, read: Read, row: Value) -> Value:
        """Return where a row is at the depth that is bound, so many rows behind the first."""
        b, pointer = self._b, Point(frame).pointer(read)
        for axis, amount in self._shift(row):
            step = frame.scalar_index(read.address.coefficient(axis))
            pointer = b.gep(pointer, F32, b.mul(amount, step))
        return pointer

    def _vector(self, place: Value, exist: Value | None) -> Value:
        if exist is None:
            return self._b.load(self._type, place, 4)
        return self._b.masked_load(self._type, place, exist, const(self._type, 0), 4)


class _Rows(msgspec.Struct, frozen=True):
    """Rows of a tile.

    Attributes:
        frame: where its first row is.
        slot: where its rows are written to.
        number: the first of the rows that are written together.
        count: rows of the tile.
    """

    frame: Frame
    slot: Value
    number: Value
    count: int


def depth_of(kernel: Contraction) -> int:
    """Return the depth values of all taps of a paired product."""
    depth = product(axis.extent for axis in (*kernel.taps, kernel.depth)).constant
    assert depth is not None, "paired products have a known depth"
    return depth


def _pitch(kernel: Contraction) -> int:
    """Return the rows of the largest tile, and those that are written beside them."""
    return -(-kernel.tile.rows // TOGETHER) * TOGETHER


def _line_bytes(kernel: Contraction) -> int:
    """Return the room of a number for each row, in whole lines."""
    return -(-4 * _pitch(kernel) // LINE) * LINE


def _head_bytes(kernel: Contraction) -> int:
    """Return the bytes in front of the values of rows."""
    return NUMBERS * _line_bytes(kernel) + LINE


def slot_bytes(kernel: Contraction, lanes: int) -> int:
    """Return the bytes of a register tile's rows in scratch."""
    blocks = -(-depth_of(kernel) // lanes)
    return _head_bytes(kernel) + 4 * blocks * lanes * _pitch(kernel) + LINE


def paired_scratch(kernel: Contraction, lanes: int) -> int:
    """Return the bytes of scratch of one thread: which rows it holds, and the rows of a chunk."""
    return LINE + kernel.tile.row_items * slot_bytes(kernel, lanes)


def begin_keeping(fn: Function) -> None:
    """Forget which rows scratch holds, if another launch has used it since."""
    b = fn.b
    first = b.icmp("eq", fn.again, i64(0))
    b.store(b.select(first, i64(-1), b.load(I64, fn.scratch, 8)), fn.scratch, 8)

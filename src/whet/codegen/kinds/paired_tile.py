"""Register tiles of products in pairs: two additions and one multiply-add for two products.

Every broadcast value is an operand in memory of one instruction, an addition or a multiply-add:
tiles of one vector are as tall as the registers allow, and load each vector of weights once.
"""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.contraction_tile import Place, TileWriter
from whet.codegen.kinds.depth_steps import Cells
from whet.codegen.kinds.kernel_function import Function
from whet.codegen.kinds.paired_rows import PackedRows, depth_of
from whet.codegen.writing.builder import F32, I64, Builder, Value, const, i64, vector
from whet.codegen.writing.frame import Frame
from whet.kernel.pairs import BLOCKS, sign_of
from whet.kernel.spec import Contraction

TOGETHER = 4
"""Rows whose instructions LLVM may put in another order."""
Sums = list[Value]
"""The sum of each row, which are vectors of columns."""


class PairedTiles(msgspec.Struct, frozen=True):
    """Writes register tiles of products in pairs.

    Attributes:
        kernel: the contraction; register tiles have one vector.
        fn: the function being written.
        lanes: elements of a vector.
        plain: what paired tiles share with others.
    """

    kernel: Contraction
    fn: Function
    lanes: int
    plain: TileWriter

    @property
    def _b(self) -> Builder:
        return self.fn.b

    @property
    def rows(self) -> PackedRows:
        """The rows in scratch."""
        return PackedRows(self.kernel, self.fn, self.lanes)

    def write(self, frame: Frame, rows: int, place: Place) -> None:
        """Write the sums of a tile of rows, which wait in scratch, and its epilogue."""
        slot, pairs = place.packed, self.kernel.pairs
        assert slot is not None and pairs is not None, "rows are packed"
        cells = self.plain.cells(rows, place.columns)
        weights = self.plain.panel(frame, place.panel, self.kernel.b.base)
        tile = _Tile(self, slot, weights, [line[0] for line in cells.cells])
        tile.sum(self._paired(slot), self._of_panel(place, pairs.squares))
        self._scale(cells, slot, self._of_panel(place, pairs.factors))
        self.plain.epilogue.finish(frame, cells)

    def _paired(self, slot: Value) -> Value:
        """Return the depth up to which products are in pairs: 0 unless all values are finite."""
        b = self._b
        finite = b.fcmp("oeq", b.load(F32, self.rows.flag, 4), const(F32, 0.0))
        return b.select(finite, b.load(I64, self.rows.paired(slot), 8), i64(0))

    def _of_panel(self, place: Place, param: int) -> Value:
        """Load the numbers of the columns of a panel."""
        b = self._b
        start = b.mul(place.panel, i64(self.lanes))
        return b.load(vector(F32, self.lanes), b.gep(self.fn.params[param], F32, start), 64)

    def _scale(self, cells: Cells, slot: Value, factors: Value) -> None:
        """Multiply the sums by what rows and columns were divided by."""
        b = self._b
        for number, line in enumerate(cells.cells):
            scale = b.load(F32, self.rows.scale(slot, number), 4)
            total = b.binary("fmul", b.load(cells.type, line[0], 64), factors)
            b.store(b.binary("fmul", total, b.splat(scale, self.lanes)), line[0], 64)


class _Tile(msgspec.Struct, frozen=True):
    """One register tile.

    Attributes:
        writer: what it belongs to.
        slot: where its rows are.
        weights: where its panel of weights begins.
        cells: where its sums are.
    """

    writer: PairedTiles
    slot: Value
    weights: Value
    cells: list[Value]

    @property
    def _b(self) -> Builder:
        return self.writer.fn.b

    @property
    def _lanes(self) -> int:
        return self.writer.lanes

    @property
    def _type(self) -> str:
        return vector(F32, self._lanes)

    @property
    def _unroll(self) -> int:
        return self.writer.kernel.tile.unroll

    def sum(self, paired: Value, squares: Value) -> None:
        """Write the sums: in pairs up to a depth, and the rest one by one."""
        b, rows, lanes = self._b, self.writer.rows, self._lanes
        some = b.icmp("ne", paired, i64(0))
        for number, cell in enumerate(self.cells):
            first = b.splat(b.load(F32, rows.begin(self.slot, number), 4), lanes)
            begin = b.binary("fadd", squares, first)
            b.store(b.select(some, begin, const(self._type, 0.0)), cell, 64)
        depth, size = depth_of(self.writer.kernel), BLOCKS * lanes
        with b.loop(i64(0), paired, size, hint="group") as start:
            for lane in (0, lanes // 2):
                self._half(start, lane)
        whole = depth - depth % lanes
        with (
            b.loop(paired, i64(whole), lanes, hint="block") as start,
            b.loop(i64(0), i64(lanes), self._unroll, hint="depth") as step,
        ):
            self._plain_steps(b.add(start, step), self._unroll)
        if depth > whole:
            self._plain_steps(i64(whole), depth - whole)

    def _half(self, start: Value, first: int) -> None:
        """Write the products of half of the lanes of a group, a lane of its blocks at a time.

        With two lanes in a round LLVM has the additions of both in front, and spills sums.
        """
        b, lanes = self._b, self._lanes
        with b.loop(i64(first), i64(first + lanes // 2), hint="pair") as lane:
            sums, depth = self._load(), b.add(start, lane)
            self.writer.plain.fetching.fetch()
            alone, one, two = (self._weights(depth, block * lanes) for block in range(BLOCKS))
            for row, before in enumerate(sums):
                x, y, z = (self._value(depth, block * lanes, row) for block in range(BLOCKS))
                total = self._pair(before, (y, z), (one, two), sign_of(first, lanes))
                sums[row] = b.fma(x, alone, total)
                if row % TOGETHER == TOGETHER - 1:
                    b.barrier()
            self._keep(sums)

    def _pair(
        self, before: Value, row: tuple[Value, Value], column: tuple[Value, Value], sign: int
    ) -> Value:
        """Add a pair of products, and the squares that sums begin without."""
        b, opcode = self._b, "fadd" if sign > 0 else "fsub"
        x, y = b.binary(opcode, column[1], row[0]), b.binary(opcode, column[0], row[1])
        return b.fma(x if sign > 0 else b.op(f"fneg {x}", x.type), y, before)

    def _plain_steps(self, depth: Value, count: int) -> None:
        b, sums = self._b, self._load()
        self.writer.plain.fetching.fetch()
        for step in range(count):
            weights = self._weights(depth, step)
            for row, before in enumerate(sums):
                sums[row] = b.fma(self._value(depth, step, row), weights, before)
        self._keep(sums)

    # -- operands ----------------------------------------------------------------------------

    def _weights(self, depth: Value, behind: int) -> Value:
        """Load the weights of a depth value so many behind one."""
        b = self._b
        place = b.gep(self.weights, F32, b.mul(depth, i64(self._lanes)))
        return b.load(self._type, b.gep(place, F32, behind * self._lanes), 64)

    def _value(self, depth: Value, behind: int, row: int) -> Value:
        """Return a row's value in every lane, of a depth value so many behind one."""
        b, rows = self._b, self.writer.rows
        place = b.gep(rows.values(self.slot), F32, b.mul(depth, i64(rows.pitch)))
        offset = behind * rows.pitch + row
        return b.splat(b.load(F32, b.gep(place, F32, offset), 4), self._lanes)

    def _load(self) -> Sums:
        return [self._b.load(self._type, cell, 64) for cell in self.cells]

    def _keep(self, sums: Sums) -> None:
        for total, cell in zip(sums, self.cells, strict=True):
            self._b.store(total, cell, 64)

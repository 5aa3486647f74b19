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
from whet.codegen.writing.builder import F32, I32, Builder, Value, const, i64, vector
from whet.codegen.writing.frame import Frame
from whet.kernel.pairs import BLOCKS, Pairs, groups_of, sign_of
from whet.kernel.spec import Contraction

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

    @property
    def _pairs(self) -> Pairs:
        assert self.kernel.pairs is not None, "the products are in pairs"
        return self.kernel.pairs

    def write(self, frame: Frame, rows: int, place: Place) -> None:
        """Write the sums of a tile of rows, which wait in scratch, and its epilogue."""
        b, slot = self._b, place.packed
        assert slot is not None, "rows are packed"
        cells = self.plain.cells(rows, place.columns)
        weights = self.plain.panel(frame, place.panel, self.kernel.b.base)
        tile = _Tile(self, slot, weights, [line[0] for line in cells.cells])
        b.either(
            self._usual(slot),
            lambda: tile.in_pairs(self._of_panel(place, self._pairs.squares)),
            tile.one_by_one,
        )
        self._scale(cells, slot, self._of_panel(place, self._pairs.factors))
        self.plain.epilogue.finish(frame, cells)

    def _usual(self, slot: Value) -> Value:
        """Whether all rows and weights are finite."""
        b = self._b
        rows = b.icmp("eq", b.load(I32, self.rows.unusual(slot), 4), const(I32, 0))
        columns = self.kernel.col.extent.constant
        assert columns is not None, "weights are known"
        behind = -(-columns // self.lanes) * self.lanes
        weights = b.load(F32, b.gep(self.fn.params[self._pairs.squares], F32, behind), 4)
        return b.binary("and", rows, b.fcmp("oeq", weights, const(F32, 0.0)))

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

    def in_pairs(self, squares: Value) -> None:
        """Write the sums with the products of all groups in pairs."""
        b, rows, lanes = self._b, self.writer.rows, self._lanes
        for number, cell in enumerate(self.cells):
            first = b.splat(b.load(F32, rows.begin(self.slot, number), 4), lanes)
            b.store(b.binary("fadd", squares, first), cell, 64)
        depth = depth_of(self.writer.kernel)
        groups, size = groups_of(depth, lanes), BLOCKS * lanes
        both = groups // 2 * 2 * size
        with b.loop(i64(0), i64(both), 2 * size, hint="groups") as start:
            self._group(start, sign_of(0))
            self._group(b.add(start, i64(size)), sign_of(1))
        if groups % 2:
            self._group(i64(both), sign_of(groups - 1))
        self._plainly(groups * size, depth)

    def one_by_one(self) -> None:
        """Write the sums with every product on its own."""
        for cell in self.cells:
            self._b.store(const(self._type, 0.0), cell, 64)
        self._plainly(0, depth_of(self.writer.kernel))

    def _group(self, start: Value, sign: int) -> None:
        """Write the products of a group, a lane of its blocks at a time.

        With two lanes in a round LLVM has the additions of both in front, and spills sums.
        """
        b = self._b
        with b.loop(i64(0), i64(self._lanes), hint="pair") as lane:
            sums = self._load()
            self.writer.plain.fetching.fetch()
            alone, first, second = (
                self._weights(b.add(b.add(start, i64(block * self._lanes)), lane), 0)
                for block in range(BLOCKS)
            )
            for row, before in enumerate(sums):
                one, two, three = (
                    self._value(start, lane, (block, row, 0)) for block in range(BLOCKS)
                )
                total = self._pair(before, (two, three), (first, second), sign)
                sums[row] = b.fma(one, alone, total)
            self._keep(sums)

    def _pair(
        self, before: Value, row: tuple[Value, Value], column: tuple[Value, Value], sign: int
    ) -> Value:
        """Add a pair of products, and the squares that sums begin without."""
        b, opcode = self._b, "fadd" if sign > 0 else "fsub"
        x, y = b.binary(opcode, column[1], row[0]), b.binary(opcode, column[0], row[1])
        return b.fma(x if sign > 0 else b.op(f"fneg {x}", x.type), y, before)

    def _plainly(self, first: int, last: int) -> None:
        """Write the products of some depth values, one by one."""
        b, lanes, unroll = self._b, self._lanes, self._unroll
        whole = last - (last - first) % lanes
        with (
            b.loop(i64(first), i64(whole), lanes, hint="block") as start,
            b.loop(i64(0), i64(lanes), unroll, hint="depth") as lane,
        ):
            self._plain_steps(start, lane, unroll)
        if last > whole:
            self._plain_steps(i64(whole), i64(0), last - whole)

    def _plain_steps(self, start: Value, lane: Value, count: int) -> None:
        b, sums = self._b, self._load()
        self.writer.plain.fetching.fetch()
        for step in range(count):
            weights = self._weights(b.add(start, lane), step)
            for row, before in enumerate(sums):
                sums[row] = b.fma(self._value(start, lane, (0, row, step)), weights, before)
        self._keep(sums)

    # -- operands ----------------------------------------------------------------------------

    def _weights(self, depth: Value, step: int) -> Value:
        b = self._b
        place = b.gep(self.weights, F32, b.mul(depth, i64(self._lanes)))
        return b.load(self._type, b.gep(place, F32, step * self._lanes), 64)

    def _value(self, start: Value, lane: Value, spot: tuple[int, int, int]) -> Value:
        """Return a row's value in every lane, by its block behind ``start``, row and step."""
        b, rows, (block, row, step) = self._b, self.writer.rows, spot
        base = b.mul(b.add(start, lane), i64(rows.pitch))
        place = b.gep(rows.values(self.slot), F32, base)
        offset = (block * self._lanes + step) * rows.pitch + row
        return b.splat(b.load(F32, b.gep(place, F32, offset), 4), self._lanes)

    def _load(self) -> Sums:
        return [self._b.load(self._type, cell, 64) for cell in self.cells]

    def _keep(self, sums: Sums) -> None:
        for total, cell in zip(sums, self.cells, strict=True):
            self._b.store(total, cell, 64)

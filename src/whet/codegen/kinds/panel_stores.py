"""What products with weights in panels share: the rows of a chunk, and the end of their sums."""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import lane_mask
from whet.codegen.kinds.row_group import RowGroup
from whet.codegen.writing.builder import F32, Value, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Axis
from whet.kernel.blocks import PANEL, ROW_TILE, RowsOut
from whet.kernel.spec import ACCUMULATOR, Store


def rows_of_block(frame: Frame, row: Axis, block: int, number: Value) -> tuple[Value, Value]:
    """Return the first row of a block of at most so many rows, and the one behind its last.

    All blocks but the last have as many rows, in whole tiles, so that threads end together.
    """
    b = frame.b
    rows = frame.scalar_index(row.extent)
    blocks = b.divide(b.add(rows, i64(block - 1)), block)[0]
    share = b.binary("udiv", b.add(rows, b.add(blocks, i64(-1))), blocks)
    tiles = b.divide(b.add(share, i64(ROW_TILE - 1)), ROW_TILE)[0]
    size = b.mul(tiles, i64(ROW_TILE))
    start = b.min(b.mul(number, size), rows)
    return start, b.min(b.add(start, size), rows)


class PanelRows(msgspec.Struct, frozen=True):
    """Brings results of sums that wait in memory into rows in blocks.

    Attributes:
        row: rows.
        col: columns.
        end: what becomes of a sum, and where it goes.
        group: writes a group: the columns of a panel.
        output: the rows in blocks.
    """

    row: Axis
    col: Axis
    end: RowsOut
    group: RowGroup
    output: Value

    def write(self, frame: Frame, cells: list[list[Value]], column: int) -> None:
        """Write the groups of some rows; see ``PanelStores``."""
        b, width = frame.b, self.group.width
        panel = b.divide(frame.env[self.col], PANEL)[0]
        groups = (self.col.extent.constant or 0) // PANEL
        for i, line in enumerate(cells):
            values = []
            for v, cell in enumerate(line):
                names = {ACCUMULATOR: b.load(vector(F32, width), cell, 4)}
                shift = {self.row: i, self.col: v * width}
                point = Point(frame, self.col, width, None, shift, names)
                values.append(point.value(self.end.value))
            row = b.add(frame.env[self.row], i64(i))
            self.group.write(values, self.group.place(self.output, row, (panel, groups)))


class PanelStores(msgspec.Struct, frozen=True):
    """Writes the epilogue of sums that wait in memory.

    Attributes:
        row: rows.
        col: columns.
        stores: the epilogue; reads a sum as ``Var("acc")``.
        width: columns in a vector.
    """

    row: Axis
    col: Axis
    stores: tuple[Store, ...]
    width: int

    def write(self, frame: Frame, cells: list[list[Value]], column: int) -> None:
        """Write the stores, for whole vectors or for those of the last panel that exist.

        Args:
            frame: with the first row and the first column of the panel bound.
            cells: where the sums of each row and vector are.
            column: the first one in the panel.
        """
        b = frame.b
        extent = self.col.extent.constant
        if extent is not None and extent % PANEL == 0:
            self._stores(frame, cells, column, None)
            return
        left = b.binary("sub nsw", frame.scalar_index(self.col.extent), frame.env[self.col])
        b.either(
            b.icmp("sge", left, i64(PANEL)),
            lambda: self._stores(frame, cells, column, None),
            lambda: self._stores(frame, cells, column, left),
        )

    def _stores(
        self, frame: Frame, cells: list[list[Value]], column: int, left: Value | None
    ) -> None:
        b = frame.b
        for i, line in enumerate(cells):
            for v, cell in enumerate(line):
                at = column + v * self.width
                mask = None
                if left is not None:
                    mask = lane_mask(b, b.binary("sub nsw", left, i64(at)), self.width)
                names = {ACCUMULATOR: b.load(vector(F32, self.width), cell, 4)}
                shift = {self.row: i, self.col: at}
                point = Point(frame, self.col, self.width, mask, shift, names)
                for store in self.stores:
                    point.store(store)

"""The register tile of a contraction: one broadcast operand, one vector operand.

The tile lives in ``rows x vectors`` registers. Each depth step loads ``vectors`` vectors of ``b``
and broadcasts one element of ``a`` per row. Taps stay loops: unrolled, LLVM would share overlapping
loads across taps, run out of registers and spill.
"""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.depth_blocks import Block, keep_sums, resume_sums
from whet.codegen.kinds.depth_steps import Cells, Columns, DepthSteps, Run, advanced
from whet.codegen.kinds.fetching import Fetching
from whet.codegen.kinds.kernel_function import Function, tap_range
from whet.codegen.kinds.tile_epilogue import Part, TileEpilogue
from whet.codegen.writing.builder import Builder, Value, i64, vector
from whet.codegen.writing.conversions import storage_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Poly
from whet.kernel.spec import Contraction


class Place(msgspec.Struct, frozen=True):
    """Where a register tile is: the panel, its columns, and where what waits in scratch is.

    Attributes:
        panel: number of the column panel.
        columns: its vectors.
        block: the block of the reduction, if there are several.
        sums: the partial sums, if there are several blocks.
        packed: the rows, where products are taken in pairs.
    """

    panel: Value
    columns: Columns
    block: Block | None
    sums: Value | None
    packed: Value | None = None


class _Multiplied(msgspec.Struct, frozen=True):
    """What a register tile multiplies, over the depth of one broadcast operand.

    Attributes:
        frame: where the tile is.
        panel: the vector operand at depth 0.
        cells: where the sums are.
        steps: writes the depth steps.
        rows: pointers to the rows of the operand at depth 0, if some lie outside.
        start: the first depth.
        stop: the depth behind the last one, ``None`` for all.
    """

    frame: Frame
    panel: Value
    cells: Cells
    steps: DepthSteps
    rows: list[Value] | None
    start: int = 0
    stop: int | None = None


class TileWriter(msgspec.Struct, frozen=True):
    """Writes register tiles.

    Attributes:
        kernel: the contraction.
        fn: the function being written.
        width: lanes of a vector.
        steps: writes the depth steps.
        epilogue: writes what sums begin with and where they go.
        fetching: writes what is fetched ahead.
        later: writes the depth steps of the second operand, if there is one.
    """

    kernel: Contraction
    fn: Function
    width: int
    steps: DepthSteps
    epilogue: TileEpilogue
    fetching: Fetching
    later: DepthSteps | None = None

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    def write(self, frame: Frame, rows: int, place: Place) -> None:
        """Write the sums of a tile of rows, and its epilogue where they are complete."""
        b, kernel, columns = self.b, self.kernel, place.columns
        cells = self.cells(rows, columns)
        base = self.panel(frame, place.panel, kernel.b.base)
        if place.block is None or place.sums is None:
            self.epilogue.begin(frame, cells)
            self._taps(frame, base, 0, cells)
            self.epilogue.finish(frame, cells)
            return
        resume_sums(b, place.block, place.sums, cells)
        self._block(frame, base, place.block, cells)
        finish = partial(self.epilogue.finish, frame, cells)
        keep_sums(b, place.block, place.sums, cells, finish=finish)

    def cells(self, rows: int, columns: Columns) -> Cells:
        """Reserve the sums of a tile."""
        type_ = vector(self.steps.accumulator, self.width)
        slots = [[self.b.alloca(type_) for _ in range(columns.vectors)] for _ in range(rows)]
        return Cells(slots, type_, columns)

    def sum_among(self, frame: Frame, panel: Value, cells: Cells, parts: list[Part]) -> None:
        """Write the sums of a tile without taps, and other instructions between its depth steps.

        Args:
            frame: where the tile is.
            panel: the column panel.
            cells: where its sums go.
            parts: what is written between the steps, in this order.
        """
        kernel, unroll = self.kernel, self.kernel.tile.unroll
        depth = kernel.depth.extent.constant
        assert depth is not None, "pipelined tiles have a known depth"
        for tap in kernel.taps:
            frame = frame.bind(tap, i64(0))
        self.epilogue.begin(frame, cells)
        (operand,) = self._operands(frame, self.panel(frame, panel, kernel.b.base), cells)
        apart = min(depth - operand.steps.rest, -(-len(parts) // unroll) * unroll)
        done = 0
        for step in range(apart):
            if step % unroll == 0:
                self.fetching.fetch()
            self._at(operand, i64(step), (1, False))
            due = len(parts) * (step + 1) // apart
            for part in parts[done:due]:
                part()
            done = due
        for part in parts[done:]:
            part()
        if apart < depth:
            self._known(replace(operand, start=apart), depth)

    def panel(self, frame: Frame, panel: Value, base: Poly) -> Value:
        """Return where a column panel of the vector operand begins."""
        b, source = self.b, self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        step = b.mul(panel, frame.scalar_index(source.panel_stride))
        return b.gep(self.fn.params[source.param], kind, b.add(step, frame.scalar_index(base)))

    def _taps(self, frame: Frame, b_pointer: Value, position: int, cells: Cells) -> None:
        """Write the loops over taps, shortened where ``a`` would be read outside its bounds."""
        b, kernel = self.b, self.kernel
        if position == len(kernel.taps):
            self._depth(frame, b_pointer, cells)
            return
        tap = kernel.taps[position]
        low, high = tap_range(frame, tap, self.kernel.bounds)
        kind = storage_type(kernel.params[kernel.b.param].dtype)
        stride = frame.scalar_index(kernel.b.tap_strides[position])
        with b.loop(low, high, hint="tap") as value:
            moved = b.gep(b_pointer, kind, b.mul(value, stride))
            self._taps(frame.bind(tap, value), moved, position + 1, cells)

    def _block(self, frame: Frame, b_pointer: Value, block: Block, cells: Cells) -> None:
        """Write one block of the reduction, nothing where a tap reads outside of ``a``."""
        b, kernel, unroll = self.b, self.kernel, self.kernel.tile.unroll
        pointer = self.at_taps(frame, b_pointer)
        end = b.add(block.start, i64(kernel.tile.block))
        for tap in kernel.taps:
            low, high = tap_range(frame, tap, kernel.bounds)
            inside = b.icmp("sle", low, frame.env[tap]), b.icmp("slt", frame.env[tap], high)
            for holds in inside:
                end = b.select(holds, end, block.start)
        for operand in self._operands(frame, pointer, cells):
            low = b.max(block.start, i64(operand.start)) if operand.start else block.start
            high = end if operand.stop is None else b.min(end, i64(operand.stop))
            with b.loop(low, high, unroll, hint="depth") as k:
                self._at(operand, k, (unroll, False))

    def _operands(self, frame: Frame, pointer: Value, cells: Cells) -> list[_Multiplied]:
        """Return the broadcast operands one after the other, in the depth that they have."""
        rows = self._row_pointers(frame, len(cells.cells))
        second = self.kernel.second
        if second is None or self.later is None:
            return [_Multiplied(frame, pointer, cells, self.steps, rows)]
        return [
            _Multiplied(frame, pointer, cells, self.steps, rows, stop=second.start),
            _Multiplied(frame, pointer, cells, self.later, None, start=second.start),
        ]

    def _depth(self, frame: Frame, b_pointer: Value, cells: Cells) -> None:
        """Write the innermost reduction, unrolled."""
        b, unroll, depth = self.b, self.kernel.tile.unroll, self.kernel.depth.extent
        operands = self._operands(frame, b_pointer, cells)
        if depth.constant is not None:
            for operand in operands:
                self._known(operand, depth.constant if operand.stop is None else operand.stop)
            return
        (operand,) = operands
        length = frame.scalar_index(depth)
        full = b.binary("and", length, i64(-unroll))
        with b.loop(i64(0), full, unroll, hint="depth") as k:
            self._at(operand, k, (unroll, False))
        with b.loop(full, length, hint="rest") as k:
            self._at(operand, k, (1, False))

    def _known(self, operand: _Multiplied, stop: int) -> None:
        """Write the depth steps of an operand up to a known one."""
        unroll, start = self.kernel.tile.unroll, operand.start
        if stop - start <= unroll:
            self._at(operand, i64(start), (stop - start, True))
            return
        full = start + (stop - start - operand.steps.rest) // unroll * unroll
        with self.b.loop(i64(start), i64(full), unroll, hint="depth") as k:
            self._at(operand, k, (unroll, False))
        if stop > full:
            self._at(operand, i64(full), (stop - full, True))

    def _row_pointers(self, frame: Frame, count: int) -> list[Value] | None:
        """Return a pointer per row where rows may lie outside ``a``; those outside see zeros."""
        kernel = self.kernel
        if not kernel.edges:
            return None
        zeros = self.fn.params[kernel.zeros]
        start = frame.bind(kernel.depth, i64(0))
        found = []
        for i in range(count):
            point = Point(start, shift={kernel.row: i})
            inside = point.pointer(kernel.a)
            found.append(self.b.select(point.holds(kernel.edges), inside, zeros))
        return found

    def _at(self, operand: _Multiplied, k: Value, run: Run) -> None:
        """Write a run of depth steps from depth ``k``."""
        frame, rows = operand.frame, operand.rows
        moved = advanced(frame, self.kernel, operand.panel, k)
        if run[0] == self.kernel.tile.unroll:
            self.fetching.fetch()
        if rows is not None:
            kind = storage_type(self.kernel.a.dtype)
            rows = [self.b.gep(r, kind, k) for r in rows]
        operand.steps.write(frame.bind(self.kernel.depth, k), moved, rows, run, operand.cells)

    def at_taps(self, frame: Frame, pointer: Value) -> Value:
        """Return a pointer to the vector operand moved to the taps that are bound."""
        b, source = self.b, self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        for tap, stride in zip(self.kernel.taps, source.tap_strides, strict=True):
            pointer = b.gep(pointer, kind, b.mul(frame.env[tap], frame.scalar_index(stride)))
        return pointer

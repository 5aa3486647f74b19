"""The register tile of a contraction: sums in registers from the first depth step to the last.

It takes ``rows x vectors`` registers. Each depth step loads ``vectors`` vectors of ``b`` and
broadcasts one element of ``a`` per row. Taps stay loops: unrolled, LLVM would share overlapping
loads across taps, run out of registers and spill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whet.codegen.builder import PTR, Builder, Value, const, i64, vector
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import Function, tap_range
from whet.codegen.operations import apply, from_storage, register_type, storage_type
from whet.index import Poly
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import ACCUMULATOR, Contraction


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the depth, done for all tiles of a chunk before the next part begins.

    Attributes:
        begin: its first depth step.
        first: whether sums begin with it; else they are in the slot.
        last: whether sums end with it; else they go to the slot.
        slot: scratch memory for the tile's sums.
    """

    begin: Value
    first: Value
    last: Value
    slot: Value


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of columns.

    Attributes:
        index: its number.
        vectors: how many vectors it has.
        masks: for each vector which lanes exist; ``None`` means all.
        block: the part of the depth to do; ``None`` for the whole.
    """

    index: Value
    vectors: int
    masks: tuple[Value | None, ...]
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class _Cells:
    """Stack slots of the accumulators, which LLVM promotes to registers."""

    cells: list[list[Value]]
    type: str
    panel: Panel


@dataclass(frozen=True, slots=True)
class TileWriter:
    """Writes register tiles.

    Attributes:
        kernel: the contraction.
        fn: the function that is written.
        width: lanes of a vector.
        cursor: where the address of what is fetched ahead is kept.
        lane_fma: whether the target's multiply-add takes a lane of a vector.
    """

    kernel: Contraction
    fn: Function
    width: int
    cursor: Value
    lane_fma: bool

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    def write(self, frame: Frame, rows: int, panel: Panel) -> None:
        """Write the tile whose first row and column are bound in ``frame``."""
        b, kernel = self.b, self.kernel
        type_ = vector(register_type(kernel.a.dtype), self.width)
        lines = [[b.alloca(type_) for _ in range(panel.vectors)] for _ in range(rows)]
        cells = _Cells(lines, type_, panel)
        self._begin(cells)
        self._taps(frame, self.b_pointer(frame, panel.index, kernel.b.base), 0, cells)
        block = panel.block
        if block is None:
            self._finish(frame, cells)
            return
        b.either(
            block.last, lambda: self._finish(frame, cells), lambda: self._keep(cells, block.slot)
        )

    def b_pointer(self, frame: Frame, panel: Value, base: Poly) -> Value:
        """Return where a panel of ``b`` starts."""
        b, source = self.b, self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        step = b.mul(panel, frame.scalar_index(source.panel_stride))
        return b.gep(self.fn.params[source.param], kind, b.add(step, frame.scalar_index(base)))

    # -- sums --------------------------------------------------------------------------------

    def _begin(self, cells: _Cells) -> None:
        block = cells.panel.block
        if block is None:
            self._clear(cells)
            return
        self.b.either(
            block.first, lambda: self._clear(cells), lambda: self._resume(cells, block.slot)
        )

    def _clear(self, cells: _Cells) -> None:
        for line in cells.cells:
            for cell in line:
                self.b.store(const(cells.type, 0), cell, 64)

    def _resume(self, cells: _Cells, slot: Value) -> None:
        b = self.b
        for k, cell in enumerate(c for line in cells.cells for c in line):
            b.store(b.load(cells.type, b.gep(slot, cells.type, k), 64), cell, 64)

    def _keep(self, cells: _Cells, slot: Value) -> None:
        b = self.b
        for k, cell in enumerate(c for line in cells.cells for c in line):
            b.store(b.load(cells.type, cell, 64), b.gep(slot, cells.type, k), 64)

    def _finish(self, frame: Frame, cells: _Cells) -> None:
        b, kernel = self.b, self.kernel
        for i, line in enumerate(cells.cells):
            for j, cell in enumerate(line):
                shift = {kernel.row: i, kernel.col: j * self.width}
                names = {ACCUMULATOR: b.load(cells.type, cell, 64)}
                point = Point(frame, kernel.col, self.width, cells.panel.masks[j], shift, names)
                for store in kernel.stores:
                    point.store(store)

    # -- taps and depth ----------------------------------------------------------------------

    def _taps(self, frame: Frame, b_pointer: Value, position: int, cells: _Cells) -> None:
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

    def _depth(self, frame: Frame, b_pointer: Value, cells: _Cells) -> None:
        """Write the innermost reduction, unrolled."""
        b, tile, block = self.b, self.kernel.tile, cells.panel.block
        extent = self.kernel.depth.extent.constant
        rows = self._row_pointers(frame, len(cells.cells))

        def steps(k: Value, count: int) -> None:
            self._at(frame, k, b_pointer, rows, count, cells)

        if block is not None:
            with b.loop(
                block.begin, b.add(block.begin, i64(tile.depth)), tile.unroll, "depth"
            ) as k:
                steps(k, tile.unroll)
        elif extent is None:
            self._symbolic_depth(frame, steps)
        elif extent <= tile.unroll:
            steps(i64(0), extent)
        else:
            whole = extent // tile.unroll * tile.unroll
            with b.loop(i64(0), i64(whole), tile.unroll, "depth") as k:
                steps(k, tile.unroll)
            if extent % tile.unroll:
                steps(i64(whole), extent % tile.unroll)

    def _symbolic_depth(self, frame: Frame, steps: Callable[[Value, int], None]) -> None:
        b, unroll = self.b, self.kernel.tile.unroll
        length = frame.scalar_index(self.kernel.depth.extent)
        whole = b.binary("and", length, i64(-unroll))
        with b.loop(i64(0), whole, unroll, "depth") as k:
            steps(k, unroll)
        with b.loop(whole, length, hint="rest") as k:
            steps(k, 1)

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

    def _at(
        self,
        frame: Frame,
        k: Value,
        b_pointer: Value,
        rows: list[Value] | None,
        count: int,
        cells: _Cells,
    ) -> None:
        """Write ``count`` depth steps from depth ``k``."""
        moved = self._advance(frame, b_pointer, k)
        if self.kernel.tile.prefetch and count == self.kernel.tile.unroll:
            self._fetch_ahead()
        if rows is not None:
            kind = storage_type(self.kernel.a.dtype)
            rows = [self.b.gep(r, kind, k) for r in rows]
        self._steps(frame.bind(self.kernel.depth, k), moved, rows, count, cells)

    def _advance(self, frame: Frame, pointer: Value, k: Value) -> Value:
        source = self.kernel.b
        kind = storage_type(self.kernel.params[source.param].dtype)
        return self.b.gep(pointer, kind, self.b.mul(k, frame.scalar_index(source.depth_stride)))

    def _fetch_ahead(self) -> None:
        """Fetch the next lines of the panel after this one."""
        b = self.b
        at = b.load(PTR, self.cursor, 8)
        for line in range(self.kernel.tile.prefetch):
            b.prefetch(b.gep(at, "i8", LINE_BYTES * line))
        b.store(b.gep(at, "i8", LINE_BYTES * self.kernel.tile.prefetch), self.cursor, 8)

    def _steps(
        self, frame: Frame, b_pointer: Value, rows: list[Value] | None, count: int, cells: _Cells
    ) -> None:
        """Write ``count`` depth steps on the accumulators."""
        b, dtype = self.b, self.kernel.a.dtype
        sums = [[b.load(cells.type, cell, 64) for cell in line] for line in cells.cells]
        shared: dict[int, Value] = {}
        for u in range(count):
            vectors = self._load_b(frame, b_pointer, u, cells)
            for i, line in enumerate(sums):
                if self._in_lanes(u, count):
                    if u % self.width == 0:
                        shared[i] = self._load_a_lanes(frame, rows, i, u)
                    broadcast = b.shuffle(shared[i], [u % self.width] * self.width)
                else:
                    broadcast = b.splat(self._load_a(frame, rows, i, u), self.width)
                for j, before in enumerate(line):
                    line[j] = apply(b, "fma", [broadcast, vectors[j], before], [dtype] * 3, dtype)
        for line, targets in zip(sums, cells.cells, strict=True):
            for value, cell in zip(line, targets, strict=True):
                b.store(value, cell, 64)

    def _load_b(self, frame: Frame, pointer: Value, u: int, cells: _Cells) -> list[Value]:
        b, source = self.b, self.kernel.b
        dtype = self.kernel.params[source.param].dtype
        kind = storage_type(dtype)
        type_ = vector(kind, self.width)
        here = self._advance(frame, pointer, i64(u)) if u else pointer
        found = []
        for j in range(cells.panel.vectors):
            place = b.gep(here, kind, j * self.width)
            mask = cells.panel.masks[j]
            if source.padded or mask is None:
                loaded = b.load(type_, place, 64 if source.padded and kind == "float" else 4)
            else:
                loaded = b.masked_load(type_, place, mask, const(type_, 0))
            found.append(from_storage(b, loaded, dtype))
        return found

    def _in_lanes(self, u: int, count: int) -> bool:
        """Whether depth step ``u`` takes its scalars from vectors loaded along the depth."""
        whole = u - u % self.width + self.width <= count
        return self.lane_fma and whole and self.kernel.a.address.coefficient(self.kernel.depth) == 1

    def _load_a_lanes(self, frame: Frame, rows: list[Value] | None, row: int, u: int) -> Value:
        kernel = self.kernel
        if rows is not None:
            kind = vector(storage_type(kernel.a.dtype), self.width)
            place = self.b.gep(rows[row], storage_type(kernel.a.dtype), u)
            return from_storage(self.b, self.b.load(kind, place), kernel.a.dtype)
        shift = {kernel.row: row, kernel.depth: u}
        return Point(frame, kernel.depth, self.width, shift=shift).scalar(kernel.a)

    def _load_a(self, frame: Frame, rows: list[Value] | None, row: int, u: int) -> Value:
        kernel = self.kernel
        if rows is not None:
            kind = storage_type(kernel.a.dtype)
            loaded = self.b.load(kind, self.b.gep(rows[row], kind, u))
            return from_storage(self.b, loaded, kernel.a.dtype)
        return Point(frame, shift={kernel.row: row, kernel.depth: u}).scalar(kernel.a)

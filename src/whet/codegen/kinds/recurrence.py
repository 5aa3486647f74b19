"""Recurrences: a loop over steps around register tiles of products, with the state in memory.

A panel holds the same columns of all gates side by side, so that activations and the new state are
computed on the registers of the sums. Panels are visited forwards in even steps and backwards in
odd ones: weights that do not quite fit a cache are then found there for the part that does.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    lane_mask,
    open_function,
)
from whet.codegen.writing.builder import Builder, Module, Value, const, i64, vector
from whet.codegen.writing.conversions import from_storage, register_type, storage_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.operations import apply
from whet.index import Poly, ceil_div
from whet.kernel.expr import Expr, Var, walk
from whet.kernel.recurrence import Pass, Recurrence, gate_name
from whet.kernel.spec import Panels
from whet.target import Target


def recurrence_chunks(kernel: Recurrence, lanes: int) -> Poly:
    """Return the number of chunks of a recurrence."""
    return kernel.outer.extent * ceil_div(kernel.row.extent, kernel.block)


def write_recurrence(
    module: Module, name: str, kernel: Recurrence, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a recurrence."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    passes = (kernel.start, *kernel.phases)
    reads: list[Expr] = [read for _, read in kernel.states]
    reads.extend(p.operand for p in passes if p.operand is not None)
    stores = [s for p in passes for s in p.stores]
    frame = frame_of(fn, kernel.params, accesses_of(reads, stores))
    writer = _Writer(kernel, fn, target.lanes)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Rows(msgspec.Struct, frozen=True):
    """The rows of a chunk: first, one behind the last, and how many if that is known."""

    start: Value
    last: Value
    length: int | None


class _Tile(msgspec.Struct, frozen=True):
    """A register tile: its pass, panel and size, and the mask of its last vector."""

    work: Pass
    panel: Value
    rows: int
    vectors: int
    mask: Value | None

    def masks(self, vector_number: int) -> Value | None:
        """Return which lanes of a vector exist; ``None`` for all."""
        return self.mask if vector_number == self.vectors - 1 else None


class _Writer(msgspec.Struct, frozen=True):
    kernel: Recurrence
    fn: Function
    width: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    # -- loops over steps and tiles ----------------------------------------------------------

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write all steps of one outer point and block of rows."""
        b, kernel = self.b, self.kernel
        blocks = ceil_div(kernel.row.extent, kernel.block)
        total = kernel.row.extent.constant
        outer, rows = chunk, _Rows(i64(0), frame.scalar_index(kernel.row.extent), total)
        if blocks != 1:
            count = frame.scalar_index(blocks)
            outer = b.binary("udiv", chunk, count)
            first = b.mul(b.binary("urem", chunk, count), i64(kernel.block))
            last = b.min(b.add(first, i64(kernel.block)), rows.last)
            even = total is not None and total % kernel.block == 0
            rows = _Rows(first, last, kernel.block if even else None)
        frame = frame.bind(kernel.outer, outer)
        self._pass(frame, kernel.start, None, rows)
        with b.loop(i64(0), frame.scalar_index(kernel.step.extent), hint="step") as step:
            inner = frame.bind(kernel.step, step)
            for work in kernel.phases:
                self._pass(inner, work, step, rows)

    def _pass(self, frame: Frame, work: Pass, step: Value | None, rows: _Rows) -> None:
        """Write the loop over panels: full ones, then a partial last one."""
        b, columns = self.b, work.vectors * self.width
        extent = self.kernel.col.extent.constant
        assert extent is not None, "states have a static size"
        full, rest = divmod(extent, columns)
        if full == 1:
            self._panel(frame, _Tile(work, i64(0), work.rows, work.vectors, None), rows)
        elif full:
            with b.loop(i64(0), i64(full), hint="panel") as count:
                panel = self._there_and_back(count, step, full) if work.weights else count
                self._panel(frame, _Tile(work, panel, work.rows, work.vectors, None), rows)
        if rest:
            partial = rest % self.width
            mask = lane_mask(b, i64(partial), self.width) if partial else None
            vectors = -(-rest // self.width)
            self._panel(frame, _Tile(work, i64(full), work.rows, vectors, mask), rows)

    def _there_and_back(self, count: Value, step: Value | None, panels: int) -> Value:
        """Return the panel to visit: in odd steps the last one comes first."""
        b = self.b
        assert step is not None, "products belong to a step"
        odd = b.icmp("ne", b.binary("and", step, i64(1)), i64(0))
        return b.select(odd, b.binary("sub nsw", i64(panels - 1), count), count)

    def _panel(self, frame: Frame, tile: _Tile, rows: _Rows) -> None:
        """Write the rows of one panel in tiles."""
        b = self.b
        frame = frame.bind(self.kernel.col, b.mul(tile.panel, i64(tile.work.vectors * self.width)))
        row, start = self.kernel.row, rows.start
        for size, end in self._tiles(tile.rows, rows):
            sized = replace(tile, rows=size)
            if rows.length is not None and rows.length < 2 * size:
                self._tile(frame.bind(row, start), sized)
            else:
                with b.loop(start, end, size, hint="rows") as position:
                    self._tile(frame.bind(row, position), sized)
            start = end

    def _tiles(self, size: int, rows: _Rows) -> list[tuple[int, Value]]:
        """Return the heights of tiles that cover some rows, and where those of a height end."""
        b = self.b
        if rows.length is None:
            length = b.binary("sub nsw", rows.last, rows.start)
            even = b.mul(b.binary("udiv", length, i64(size)), i64(size))
            found = [(size, b.add(rows.start, even)), (1, rows.last)]
            return found if size > 1 else found[1:]
        count, rest = divmod(rows.length, size)
        found = [(size, b.add(rows.start, i64(count * size)))] if count else []
        return [*found, (rest, rows.last)] if rest else found

    # -- the register tile -------------------------------------------------------------------

    def _tile(self, frame: Frame, tile: _Tile) -> None:
        """Write one register tile: sums, then the stores that use them."""
        b, kernel = self.b, self.kernel
        cells = self._sums(frame, tile) if tile.work.operand is not None else _Cells("", [])
        for i in range(tile.rows):
            for j in range(tile.vectors):
                shift = {kernel.row: i, kernel.col: j * self.width}
                point = Point(frame, kernel.col, self.width, tile.masks(j), shift)
                names = self._states(point, tile.work)
                for g, line in enumerate(cells.at[i] if cells.at else []):
                    names[gate_name(g)] = b.load(cells.type, line[j], 64)
                point.names = names
                for store in tile.work.stores:
                    point.store(store)

    def _states(self, point: Point, work: Pass) -> dict[str, Value]:
        """Return the states that a pass reads, before anything is written."""
        wanted = {e.name for s in work.stores for e in walk(s.value) if isinstance(e, Var)}
        return {name: point.value(read) for name, read in self.kernel.states if name in wanted}

    def _sums(self, frame: Frame, tile: _Tile) -> _Cells:
        """Write the products of a tile; returns where the sums are."""
        b, kernel, operand = self.b, self.kernel, tile.work.operand
        assert operand is not None
        type_ = vector(register_type(operand.dtype), self.width)
        cells = _Cells(
            type_,
            [
                [[b.alloca(type_) for _ in range(tile.vectors)] for _ in tile.work.weights]
                for _ in range(tile.rows)
            ],
        )
        for cell in cells.flat():
            b.store(const(type_, 0), cell, 64)
        pointers = self._weights(frame, tile)
        extent = kernel.depth.extent.constant
        assert extent is not None, "states have a static size"
        unroll = tile.work.unroll
        full = extent // unroll * unroll
        if full:
            with b.loop(i64(0), i64(full), unroll, hint="depth") as k:
                self._steps(frame, tile, (pointers, cells), k, unroll)
        if extent % unroll:
            self._steps(frame, tile, (pointers, cells), i64(full), extent % unroll)
        return cells

    def _weights(self, frame: Frame, tile: _Tile) -> list[Value]:
        """Return the address of each product's weights in the panel, at depth 0."""
        b = self.b
        bases: dict[tuple[int, Poly, Poly], Value] = {}
        found = []
        for source in tile.work.weights:
            kind = storage_type(self.kernel.params[source.param].dtype)
            fixed = sum(c for m, c in source.base.terms if not m)
            key = (source.param, source.base - fixed, source.panel_stride)
            if key not in bases:
                step = b.mul(tile.panel, frame.scalar_index(source.panel_stride))
                place = b.add(step, frame.scalar_index(source.base - fixed))
                bases[key] = b.gep(self.fn.params[source.param], kind, place)
            found.append(b.gep(bases[key], kind, fixed))
        return found

    def _steps(
        self,
        frame: Frame,
        tile: _Tile,
        operands: tuple[list[Value], _Cells],
        k: Value,
        count: int,
    ) -> None:
        """Write ``count`` depth steps from depth ``k`` on the accumulators."""
        b, kernel, operand = self.b, self.kernel, tile.work.operand
        assert operand is not None
        pointers, cells = operands
        frame = frame.bind(kernel.depth, k)
        moved = [
            self._advance(frame, s, p, k) for s, p in zip(tile.work.weights, pointers, strict=True)
        ]
        sums = {cell: b.load(cells.type, cell, 64) for cell in cells.flat()}
        for u in range(count):
            shifts = [{kernel.row: i, kernel.depth: u} for i in range(tile.rows)]
            states = [b.splat(Point(frame, shift=s).scalar(operand), self.width) for s in shifts]
            for g, (source, pointer) in enumerate(zip(tile.work.weights, moved, strict=True)):
                here = self._advance(frame, source, pointer, i64(u)) if u else pointer
                for j in range(tile.vectors):
                    weight = self._load(source, here, j, tile)
                    for i, state in enumerate(states):
                        cell = cells.at[i][g][j]
                        parts = [state, weight, sums[cell]]
                        sums[cell] = apply(b, "fma", parts, [operand.dtype] * 3, operand.dtype)
        for cell, value in sums.items():
            b.store(value, cell, 64)

    def _advance(self, frame: Frame, source: Panels, pointer: Value, k: Value) -> Value:
        kind = storage_type(self.kernel.params[source.param].dtype)
        return self.b.gep(pointer, kind, self.b.mul(k, frame.scalar_index(source.depth_stride)))

    def _load(self, source: Panels, pointer: Value, j: int, tile: _Tile) -> Value:
        """Load a vector of weights; packed ones are padded, so that no mask is needed."""
        b = self.b
        dtype = self.kernel.params[source.param].dtype
        kind = storage_type(dtype)
        type_ = vector(kind, self.width)
        place = b.gep(pointer, kind, j * self.width)
        mask = tile.masks(j)
        if source.padded or mask is None:
            loaded = b.load(type_, place, 64 if source.padded and kind == "float" else 2)
        else:
            loaded = b.masked_load(type_, place, mask, const(type_, 0))
        return from_storage(b, loaded, dtype)


class _Cells(msgspec.Struct, frozen=True):
    """Stack slots of the sums by row, product and vector; LLVM promotes them to registers."""

    type: str
    at: list[list[list[Value]]]

    def flat(self) -> list[Value]:
        """Return all slots."""
        return [cell for row in self.at for line in row for cell in line]

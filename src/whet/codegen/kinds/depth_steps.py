"""The innermost steps of a contraction: what one or more depth steps load, multiply and add."""

from __future__ import annotations

from typing import Protocol

import msgspec

from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import F32, Builder, Value, const, i64, vector
from whet.codegen.writing.conversions import from_storage, register_type, storage_type
from whet.codegen.writing.dot_product import DotProduct, bfloat16_product, dot_product
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.operations import apply
from whet.index import Axis
from whet.kernel.spec import Contraction, Dot
from whet.target import Target

SIGN_BITS = 0x80808080
LANE_BITS = 32


class Columns(msgspec.Struct, frozen=True):
    """The vectors of one panel: how many, and the mask of the last."""

    vectors: int
    masks: tuple[Value | None, ...]


class Cells(msgspec.Struct, frozen=True):
    """Stack slots of the accumulators, which LLVM promotes to registers."""

    cells: list[list[Value]]
    type: str
    columns: Columns


Run = tuple[int, bool]
"""How many depth steps are written together, and whether the last one of all is among them."""


class DepthSteps(Protocol):
    """Writes depth steps for one kind of operands."""

    @property
    def accumulator(self) -> str:
        """The LLVM type of a sum."""

    @property
    def rest(self) -> int:
        """1 if the last depth step is not like the others, else 0."""

    def write(
        self, frame: Frame, pointer: Value, rows: list[Value] | None, run: Run, cells: Cells
    ) -> None:
        """Write a run of depth steps.

        Args:
            frame: with the depth bound to its first step.
            pointer: the vector operand at that step.
            rows: pointers to the rows of the broadcast operand, if some lie outside.
            run: how many steps.
            cells: where the sums are.
        """


def depth_steps(kernel: Contraction, fn: Function, target: Target) -> DepthSteps:
    """Return what writes the depth steps of a kernel."""
    if kernel.dot is not None:
        product = dot_product(target) if kernel.sums_integers else bfloat16_product(target)
        return _DotSteps(kernel, kernel.dot, fn, target.lanes, product)
    return _PlainSteps(kernel, fn, target.lanes, target.lane_fma)


def advanced(frame: Frame, kernel: Contraction, pointer: Value, k: Value) -> Value:
    """Return a pointer to the vector operand, ``k`` depth steps on."""
    kind = storage_type(kernel.params[kernel.b.param].dtype)
    step = frame.b.mul(k, frame.scalar_index(kernel.b.depth_stride))
    return frame.b.gep(pointer, kind, step)


def row_shift(kernel: Contraction, row: int) -> dict[Axis, int]:
    """Return how far a row of a register tile is from its first one, along the axes it has."""
    if kernel.lines is None:
        return {kernel.row: row}
    length = kernel.row.extent.constant
    assert length is not None, "whole lines are of known length"
    line, place = divmod(row, length)
    return {kernel.outer[-1]: line, kernel.row: place}


def _add_up(b: Builder, cells: Cells) -> list[list[Value]]:
    return [[b.load(cells.type, cell, 64) for cell in line] for line in cells.cells]


def _keep(b: Builder, sums: list[list[Value]], cells: Cells) -> None:
    for line, targets in zip(sums, cells.cells, strict=True):
        for value, cell in zip(line, targets, strict=True):
            b.store(value, cell, 64)


class _PlainSteps(msgspec.Struct, frozen=True):
    """One depth value a step, each broadcast to all lanes."""

    kernel: Contraction
    fn: Function
    width: int
    lane_fma: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def accumulator(self) -> str:
        return register_type(self.kernel.a.dtype)

    @property
    def rest(self) -> int:
        return 0

    def write(
        self, frame: Frame, pointer: Value, rows: list[Value] | None, run: Run, cells: Cells
    ) -> None:
        b, dtype, count = self.b, self.kernel.a.dtype, run[0]
        sums = _add_up(b, cells)
        shared: dict[int, Value] = {}
        for u in range(count):
            vectors = self._load_b(frame, pointer, u, cells)
            self._fetch_near(frame, pointer, u, cells)
            for i, line in enumerate(sums):
                if self.kernel.spread:
                    if u == 0:
                        shared[i] = self._load_a_lanes(frame, rows, i, 0)
                    broadcast = b.shuffle(shared[i], self._own_group(u))
                elif self._in_lanes(u, count):
                    if u % self.width == 0:
                        shared[i] = self._load_a_lanes(frame, rows, i, u)
                    broadcast = b.shuffle(shared[i], [u % self.width] * self.width)
                else:
                    broadcast = b.splat(self._load_a(frame, rows, i, u), self.width)
                for j, before in enumerate(line):
                    line[j] = apply(b, "fma", [broadcast, vectors[j], before], [dtype] * 3, dtype)
        _keep(b, sums, cells)

    def _load_b(self, frame: Frame, pointer: Value, u: int, cells: Cells) -> list[Value]:
        b, source = self.b, self.kernel.b
        dtype = self.kernel.params[source.param].dtype
        kind = storage_type(dtype)
        type_ = vector(kind, self.width)
        here = advanced(frame, self.kernel, pointer, i64(u)) if u else pointer
        found = []
        for j in range(cells.columns.vectors):
            place = b.gep(here, kind, j * self.width)
            mask = cells.columns.masks[j]
            if source.padded or mask is None:
                loaded = b.load(type_, place, 64 if source.padded and kind == "float" else 4)
            else:
                loaded = b.masked_load(type_, place, mask, const(type_, 0))
            found.append(from_storage(b, loaded, dtype))
        return self._gated(frame, u, found)

    def _gated(self, frame: Frame, u: int, vectors: list[Value]) -> list[Value]:
        """Return vectors of the second operand, multiplied by what belongs to their depth."""
        kernel, dtype = self.kernel, self.kernel.a.dtype
        if kernel.gate is None:
            return vectors
        gate = Point(frame, shift={kernel.depth: u}).scalar(kernel.gate)
        factors = self.b.splat(gate, self.width)
        return [apply(self.b, "mul", [v, factors], [dtype] * 2, dtype) for v in vectors]

    def _fetch_near(self, frame: Frame, pointer: Value, u: int, cells: Cells) -> None:
        """Bring what a few depth steps later are loaded into the first cache."""
        b, source, near = self.b, self.kernel.b, self.kernel.tile.near
        if not near or not source.padded:
            return
        kind = storage_type(self.kernel.params[source.param].dtype)
        later = advanced(frame, self.kernel, pointer, i64(u + near))
        for j in range(cells.columns.vectors):
            b.prefetch(b.gep(later, kind, j * self.width), level=1)

    def _own_group(self, u: int) -> list[int]:
        """Return the channel that each lane multiplies at a depth step: one of its own group."""
        spread = self.kernel.spread
        return [lane // spread * spread + u for lane in range(self.width)]

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
        shift = {**row_shift(kernel, row), kernel.depth: u}
        return Point(frame, kernel.depth, self.width, shift=shift).scalar(kernel.a)

    def _load_a(self, frame: Frame, rows: list[Value] | None, row: int, u: int) -> Value:
        kernel = self.kernel
        if rows is not None:
            kind = storage_type(kernel.a.dtype)
            loaded = self.b.load(kind, self.b.gep(rows[row], kind, u))
            return from_storage(self.b, loaded, kernel.a.dtype)
        shift = {**row_shift(kernel, row), kernel.depth: u}
        return Point(frame, shift=shift).scalar(kernel.a)


class _DotSteps(msgspec.Struct, frozen=True):
    """Several depth values a step, broadcast together to all lanes of 32 bits."""

    kernel: Contraction
    dot: Dot
    fn: Function
    width: int
    product: DotProduct

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def accumulator(self) -> str:
        return "i32" if self.kernel.sums_integers else F32

    @property
    def rest(self) -> int:
        return 1 if self._last else 0

    @property
    def _last(self) -> int:
        """Depth values in the last step, if they do not fill a lane."""
        extent = self.dot.extent.constant
        return extent % self.dot.size if extent is not None else 0

    def write(
        self, frame: Frame, pointer: Value, rows: list[Value] | None, run: Run, cells: Cells
    ) -> None:
        assert rows is None, "rows read in lanes are padded by a copy"
        b, product, (count, ends) = self.b, self.product, run
        start = frame.bind(self.dot.axis, i64(0))
        sums = _add_up(b, cells)
        for u in range(count):
            values = self._last if ends and u == count - 1 and self._last else self.dot.size
            vectors = [product.vectors(b, v) for v in self._load_b(frame, pointer, u, cells)]
            for i, line in enumerate(sums):
                scalars = product.scalars(b, self._load_a(start, i, u, values), self.width)
                for j, before in enumerate(line):
                    line[j] = product.add(b, before, scalars, vectors[j])
        _keep(b, sums, cells)

    def _load_a(self, frame: Frame, row: int, u: int, values: int) -> Value:
        """Return depth values as one 32-bit integer, the first in the lowest bits."""
        b, kernel = self.b, self.kernel
        shift = {**row_shift(kernel, row), kernel.depth: u}
        place = Point(frame, shift=shift).pointer(kernel.a)
        bits = LANE_BITS // self.dot.size * values
        loaded = b.cast("zext", b.load(f"i{bits}", place), "i32")
        signs = SIGN_BITS & ((1 << bits) - 1)
        return b.binary("xor", loaded, const("i32", signs)) if self.dot.flips else loaded

    def _load_b(self, frame: Frame, pointer: Value, u: int, cells: Cells) -> list[Value]:
        b, type_ = self.b, vector("i32", self.width)
        here = advanced(frame, self.kernel, pointer, i64(u)) if u else pointer
        found = []
        for j in range(cells.columns.vectors):
            place = b.gep(here, "i32", j * self.width)
            mask = cells.columns.masks[j]
            if self.kernel.b.padded or mask is None:
                found.append(b.load(type_, place))
            else:
                found.append(b.masked_load(type_, place, mask, const(type_, 0)))
        return found

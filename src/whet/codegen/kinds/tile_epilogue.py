"""What the sums of a register tile begin with, and how they are finished and stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.depth_steps import Cells, row_shift
from whet.codegen.kinds.kernel_function import Function, accesses_of
from whet.codegen.writing.builder import Value, const
from whet.codegen.writing.byte_table import byte_looked_up
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Access, Frame
from whet.codegen.writing.pack_bytes import GROUP, pack_bytes, packs_bytes
from whet.index import Axis
from whet.kernel.expr import Call, Const, Expr, Read, Var, all_atoms, rewrite_places, walk
from whet.kernel.spec import ACCUMULATOR, Contraction, Store
from whet.target import Target

SUM = Var(ACCUMULATOR, "int32")
Spot = tuple[int, int]
"""A row and a vector of a register tile."""
Part = Callable[[], None]
"""Writes a part of the end of a register tile."""


class TileEpilogue(msgspec.Struct, frozen=True):
    """Writes the beginning and the end of register tiles.

    Attributes:
        kernel: the contraction.
        fn: the function being written.
        target: processor.
        start: what is in the sums from the start, ``None`` for 0.
        stores: what is stored then.
    """

    kernel: Contraction
    fn: Function
    target: Target
    start: Expr | None
    stores: tuple[Store, ...]

    def begin(self, frame: Frame, cells: Cells) -> None:
        """Set the sums to what they begin with."""
        b = self.fn.b
        for j in range(cells.columns.vectors):
            first = const(cells.type, 0)
            if self.start is not None:
                first = self._point(frame, cells, (0, j)).value(self.start)
            for line in cells.cells:
                b.store(first, line[j], 64)

    def finish(self, frame: Frame, cells: Cells) -> None:
        """Write the stores, which read the sums."""
        for part in self.parts(frame, cells):
            part()

    def parts(self, frame: Frame, cells: Cells) -> list[Part]:
        """Return what writes the stores part by part, bytes of four vectors at once.

        Between the parts anything else may be written.
        """
        found: list[Part] = []
        whole: list[Spot] = []
        for i, line in enumerate(cells.cells):
            for j in range(len(line)):
                if cells.columns.masks[j] is None and self._packs:
                    whole.append((i, j))
                else:
                    found.append(partial(self._alone, frame, cells, (i, j)))
        full = len(whole) - len(whole) % GROUP
        for k in range(0, full, GROUP):
            found += self._together(frame, cells, whole[k : k + GROUP])
        return found + [partial(self._alone, frame, cells, spot) for spot in whole[full:]]

    @property
    def _packs(self) -> bool:
        """Whether any store is of bytes that are packed as they saturate."""
        return packs_bytes(self.target) and any(self._is_packed(s) for s in self.stores)

    def _is_packed(self, store: Store) -> bool:
        return store.address.coefficient(self.kernel.col) == 1 and (
            _saturated(store.value) is not None or self._table(store) is not None
        )

    def _table(self, store: Store) -> tuple[Read, Call] | None:
        """Return the table that saturated bytes are looked up in before they are stored."""
        value = store.value
        if not self.fn.b.byte_tables or not isinstance(value, Read):
            return None
        byte = byte_looked_up(value)
        bytes_ = None if byte is None else _saturated(byte)
        return None if bytes_ is None else (value, bytes_)

    def _alone(self, frame: Frame, cells: Cells, spot: Spot) -> None:
        point = self._with_sum(frame, cells, spot)
        for store in self.stores:
            point.store(store)

    def _together(self, frame: Frame, cells: Cells, spots: list[Spot]) -> list[Part]:
        """Return the parts that end four vectors: one for each, one that stores their bytes."""
        numbered = list(enumerate(self.stores))
        packed: dict[int, list[Value]] = {k: [] for k, s in numbered if self._is_packed(s)}
        points: list[Point] = []

        def value(spot: Spot) -> None:
            point = self._with_sum(frame, cells, spot)
            points.append(point)
            for number, store in numbered:
                if number in packed:
                    packed[number].append(point.value(self._byte(store).args[0]))
                else:
                    point.store(store)

        def store() -> None:
            for number, wide in packed.items():
                self._store_packed(self.stores[number], points, spots, wide)

        return [*(partial(value, spot) for spot in spots), store]

    def _byte(self, store: Store) -> Call:
        """Return the saturation that makes the bytes of a packed store, or those it looks up."""
        table = self._table(store)
        value = _saturated(store.value) if table is None else table[1]
        assert value is not None, "packed bytes saturate"
        return value

    def _store_packed(
        self, store: Store, points: list[Point], spots: list[Spot], wide: list[Value]
    ) -> None:
        """Store the bytes of four vectors, those of one row at once."""
        b, width, table = self.fn.b, self.target.lanes, self._table(store)
        packed = pack_bytes(b, self.target, wide, self._byte(store).dtype)
        if table is not None:
            packed = points[0].looked_up(table[0], packed)
        first = 0
        for k in range(1, GROUP + 1):
            if k < GROUP and spots[k] == (spots[first][0], spots[first][1] + k - first):
                continue
            part = packed
            if k - first < GROUP:
                part = b.shuffle(packed, list(range(first * width, k * width)))
            b.store(part, points[first].place(store))
            first = k

    def _with_sum(self, frame: Frame, cells: Cells, spot: Spot) -> Point:
        cell = cells.cells[spot[0]][spot[1]]
        names = {ACCUMULATOR: self.fn.b.load(cells.type, cell, 64)}
        return self._point(frame, cells, spot, names)

    def _point(
        self, frame: Frame, cells: Cells, spot: Spot, names: dict[str, Value] | None = None
    ) -> Point:
        row, vector = spot
        shift = {**row_shift(self.kernel, row), self.kernel.col: vector * self.target.lanes}
        mask = cells.columns.masks[vector]
        return Point(frame, self.kernel.col, self.target.lanes, mask, shift, names or {})


def tile_epilogue(kernel: Contraction, fn: Function, target: Target) -> TileEpilogue:
    """Return what writes the beginning and the end of the tiles of a kernel."""
    start, stores = first_sum(kernel)
    return TileEpilogue(kernel, fn, target, start, stores)


def product_accesses(kernel: Contraction) -> list[Access]:
    """List the memory accesses of a product: its operands, and its end as it is written."""
    start, stores = first_sum(kernel)
    return accesses_of([*kernel.scalars, *([] if start is None else [start])], stores)


def first_sum(kernel: Contraction) -> tuple[Expr | None, tuple[Store, ...]]:
    """Return an integer that is added to all sums of a column, and the stores without it.

    Integers may be added in any order: sums that begin with it need no addition at the end.
    """
    start: Expr | None = None
    stores = kernel.stores
    if not kernel.sums_integers or kernel.tile.block:
        return start, stores
    while (found := _addend(stores, kernel.col)) is not None:
        total, amount = found
        start = amount if start is None else Call("add", (start, amount), SUM.dtype)
        stores = tuple(replace(s, value=_replaced(s.value, total, SUM)) for s in stores)
    return start, stores


def _addend(stores: tuple[Store, ...], col: Axis) -> tuple[Expr, Expr] | None:
    """Return the only thing that is done with the sum in all stores, an addition, and of what."""
    inside = {e for store in stores for e in walk(store.value)}
    uses = [e for e in inside if SUM in e.children()]
    if len(uses) != 1 or SUM in (store.value for store in stores):
        return None
    (total,) = uses
    if not isinstance(total, Call) or total.op not in ("add", "sub") or total.args[0] != SUM:
        return None
    amount = total.args[1]
    if not _same_in_rows(amount, col):
        return None
    if total.op == "add":
        return total, amount
    return total, Call("sub", (Const(0, SUM.dtype), amount), SUM.dtype)


def _same_in_rows(expr: Expr, col: Axis) -> bool:
    inside = list(walk(expr))
    atoms = {atom for e in inside for p in e.indices() for atom in all_atoms(p)}
    return atoms <= {col} and not any(isinstance(e, Var) for e in inside)


def _replaced(expr: Expr, old: Expr, new: Expr) -> Expr:
    if expr == old:
        return new

    def inside(e: Expr) -> Expr:
        return _replaced(e, old, new)

    return rewrite_places(expr, inside).map(inside)


def _saturated(value: Expr) -> Call | None:
    """Return the saturation that makes a byte, perhaps taken as an unsigned one."""
    if isinstance(value, Call) and value.op == "bitcast":
        value = value.args[0]
    return value if isinstance(value, Call) and value.op == "saturate" else None

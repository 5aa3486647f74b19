"""Recurrences to kernels: packed weights, states as reads, register tiles."""

from __future__ import annotations

import numpy as np

from whet.index import Axis, Poly, as_poly, product, var
from whet.kernel.expr import Expr, IndexValue, Load, Read
from whet.kernel.recurrence import Assign, Pass, Phase, Recur, Recurrence
from whet.kernel.recurrence_schedule import choose_recurrence_tile, choose_recurrence_unroll
from whet.kernel.spec import Panels, Store
from whet.kernel.tensor import Definition
from whet.lower.packing import product_type, split_panels, strided_view
from whet.lower.storage import (
    Params,
    Root,
    Storage,
    Storages,
    address_of,
    magnitude,
    packed_content,
    to_reads,
)
from whet.program.records import BufferKind
from whet.target import Target


def build_recurrence(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Recurrence, Params]:
    """Return the kernel that runs a recurrence in its storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Recur)
    return _Draft(anchor, storage, storages, target, Params()).build(threads)


class _Draft:
    """A recurrence on its way to flat parameters."""

    def __init__(
        self, anchor: Recur, storage: Storage, storages: Storages, target: Target, params: Params
    ) -> None:
        self.anchor, self.storage, self.storages = anchor, storage, storages
        self.target, self.params = target, params
        self.output = params.write(storage.root)

    def build(self, threads: int) -> tuple[Recurrence, Params]:
        """Return the kernel and its parameters."""
        anchor = self.anchor
        outer = max(magnitude(anchor.outer.extent), 1)
        rows = max(magnitude(anchor.row.extent), 1)
        block = -(-rows // max(1, min(rows, -(-threads // outer))))
        states = tuple((name, self._element(place, anchor.col)) for name, place in anchor.states)
        start = Pass(None, (), self._stores(anchor.start), 1, 1, 1)
        phases = tuple(self._pass(p, block) for p in anchor.phases)
        kernel = Recurrence(
            self.params.records(),
            anchor.outer,
            anchor.row,
            anchor.step,
            anchor.col,
            anchor.depth,
            states,
            start,
            phases,
            block,
        )
        return kernel, self.params

    def _address(self, place: Poly, col: Poly) -> Poly:
        anchor = self.anchor
        return address_of((place, var(anchor.outer), var(anchor.row), col), self.storage)

    def _element(self, place: Poly, axis: Axis) -> Read:
        return Read(self.output, self._address(place, var(axis)), self.storage.root.dtype)

    def _stores(self, assigns: tuple[Assign, ...]) -> tuple[Store, ...]:
        return tuple(self._store(a) for a in assigns)

    def _store(self, assign: Assign) -> Store:
        place = self._reads(assign.place)
        assert isinstance(place, IndexValue), "places are indices"
        address = self._address(place.index, var(self.anchor.col))
        return Store(self.output, address, self._reads(assign.value))

    def _reads(self, expr: Expr) -> Expr:
        return to_reads(expr, self.storages, self.params)

    def _pass(self, phase: Phase, block: int) -> Pass:
        cols = self.anchor.col.extent.constant
        assert cols is not None, "states have a static size"
        gates = len(phase.weights)
        rows, vectors = choose_recurrence_tile(gates, block, cols, self.target)
        unroll = choose_recurrence_unroll(gates, vectors, self.target)
        places = dict(self.anchor.states)
        operand = self._element(places[phase.operand], self.anchor.depth) if phase.operand else None
        weights = self._weights(phase.weights, vectors * self.target.lanes)
        return Pass(operand, weights, self._stores(phase.assigns), rows, vectors, unroll)

    # -- weights -----------------------------------------------------------------------------

    def _weights(self, weights: tuple[Expr, ...], width: int) -> tuple[Panels, ...]:
        """Return where weights lie, packing them together if all are constant."""
        loads = [w for w in weights if isinstance(w, Load)]
        assert len(loads) == len(weights), "weights are legal here"
        if loads and all(w.source.value is not None for w in loads):
            return self._packed(loads, width)
        return tuple(self._in_place(w, width) for w in loads)

    def _in_place(self, load: Load, width: int) -> Panels:
        anchor, storage = self.anchor, self.storages[id(load.source)]
        address = address_of(load.index, storage)
        base = address.substitute({anchor.col: 0, anchor.depth: 0})
        number = self.params.number(storage.root)
        return Panels(number, base, as_poly(width), address.coefficient(anchor.depth), (), False)

    def _packed(self, loads: list[Load], width: int) -> tuple[Panels, ...]:
        """Pack weights as [outer, panel, depth, product, column of the panel]."""
        anchor = self.anchor
        axes = (anchor.outer, anchor.depth, anchor.col)
        views = [
            strided_view(w.source.value, address_of(w.index, self.storages[id(w.source)]), axes)
            for w in loads
        ]
        split = split_panels(np.stack(views, axis=2), width)
        _, depth, gates, panels, _ = split.shape
        packed = split.transpose(0, 3, 1, 2, 4)
        kind = product_type(packed).name
        name = f"{loads[0].source.name}.packed"
        content, size = packed_content(loads[0].source, kind), as_poly(packed.size)
        root = Root(name, BufferKind.CONSTANT, kind, size, lambda: packed, content)
        number = self.params.number(root)
        row = gates * width
        return tuple(
            Panels(
                number,
                var(self.anchor.outer) * (panels * depth * row) + g * width,
                as_poly(depth * row),
                as_poly(row),
                (),
                True,
            )
            for g in range(gates)
        )


def flops_of_recurrence(anchor: Recur) -> Poly:
    """Return the floating-point operations of a recurrence's products."""
    gates = sum(len(p.weights) for p in anchor.phases)
    axes = (anchor.outer, anchor.row, anchor.step, anchor.col, anchor.depth)
    return product(a.extent for a in axes) * (2 * gates)

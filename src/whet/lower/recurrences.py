"""Recurrences to kernels: packed weights, states as reads, register tiles."""

from __future__ import annotations

import numpy as np

from whet.index import Axis, Poly, as_poly, product, var
from whet.kernel.expr import Expr, IndexValue, Load, Read
from whet.kernel.recurrence import Assign, Pass, Phase, Recur, Recurrence
from whet.kernel.spec import Panels, Store
from whet.kernel.tensor import Definition
from whet.lower.storage import Params, Root, Storage, Storages, address_of, magnitude, to_reads
from whet.program.records import BufferKind
from whet.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
L2_VECTORS_PER_CYCLE = 1
FMA_LATENCY = 4
TILE_OVERHEAD = 40
SUMS = FMA_PER_CYCLE * FMA_LATENCY
MAX_UNROLL = 4
MAX_ROWS = 4  # with more, LLVM loads states ahead on AArch64 and runs out of registers
STRIDE_BYTES = 1024


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
        rows, vectors = choose_tile(gates, block, cols, self.target)
        unroll = choose_unroll(gates, vectors, self.target)
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
        values = np.stack([self._elements(w) for w in loads], axis=2)
        outer, depth, gates, cols = values.shape
        panels = -(-cols // width)
        wide = np.zeros((outer, depth, gates, panels * width), values.dtype)
        wide[..., :cols] = values
        split = wide.reshape(outer, depth, gates, panels, width)
        packed = split.transpose(0, 3, 1, 2, 4)
        name = f"{loads[0].source.name}.packed"
        root = Root(
            name, BufferKind.CONSTANT, packed.dtype.name, as_poly(packed.size), lambda: packed
        )
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

    def _elements(self, load: Load) -> np.ndarray:
        """Return constant weights as [outer, depth, col]; half precision becomes float32."""
        value: np.ndarray = load.source.value
        flat = np.ascontiguousarray(value).reshape(-1)
        anchor, axes = self.anchor, (self.anchor.outer, self.anchor.depth, self.anchor.col)
        address = address_of(load.index, self.storages[id(load.source)])
        steps = [address.coefficient(x).constant for x in axes]
        shape = [x.extent.constant for x in axes]
        start = address.substitute(dict.fromkeys(axes, 0)).constant
        assert start is not None and None not in steps and None not in shape, anchor
        view = np.lib.stride_tricks.as_strided(
            flat[start:],
            [n or 0 for n in shape],
            [(s or 0) * flat.itemsize for s in steps],
            writeable=False,
        )
        return view.astype(np.float32) if flat.itemsize < 4 else view


def choose_tile(gates: int, rows: int, cols: int, target: Target) -> tuple[int, int]:
    """Return the rows and vectors of the register tile with the least estimated time."""
    if not gates:
        return 1, 1
    total = -(-cols // target.lanes)
    best: tuple[float, int, int] | None = None
    for vectors in range(1, min(total, -(-SUMS // gates)) + 1):
        for height in range(1, min(rows, MAX_ROWS) + 1):
            # Sums, one state of each row, and weights as they come.
            held = gates * vectors * height + height + 2
            if held > target.registers and (height > 1 or vectors > 1):
                break
            whole, rest = divmod(rows, height)
            cost = whole * _cycles(gates, height, vectors, total, cols)
            cost += _cycles(gates, rest, vectors, total, cols) if rest else 0.0
            if best is None or cost < best[0] * 0.999:
                best = cost, height, vectors
    assert best is not None
    return best[1], best[2]


def choose_unroll(gates: int, vectors: int, target: Target) -> int:
    """Return how many depth steps to unroll.

    With few rows the weights stream through the first cache. On Zen 5, a loop that advances by more
    than 1 KB had its lines prefetched too far ahead: 60 GFLOP/s instead of 85 to 105.
    """
    step_bytes = max(gates, 1) * vectors * target.vector_bytes
    return max(1, min(MAX_UNROLL, STRIDE_BYTES // step_bytes))


def _cycles(gates: int, rows: int, vectors: int, total: int, depth: int) -> float:
    """Estimate cycles for one tile of rows and all columns."""
    cycles = 0.0
    widths = [(vectors, total // vectors), (total % vectors, 1 if total % vectors else 0)]
    for wide, count in widths:
        fma = max(gates * wide * rows / FMA_PER_CYCLE, FMA_LATENCY)
        loads = (gates * wide + rows) / LOADS_PER_CYCLE
        streamed = gates * wide / L2_VECTORS_PER_CYCLE
        cycles += count * (depth * max(fma, loads, streamed) + TILE_OVERHEAD)
    return cycles


def flops_of_recurrence(anchor: Recur) -> Poly:
    """Return the floating-point operations of a recurrence's products."""
    gates = sum(len(p.weights) for p in anchor.phases)
    axes = (anchor.outer, anchor.row, anchor.step, anchor.col, anchor.depth)
    return product(a.extent for a in axes) * (2 * gates)

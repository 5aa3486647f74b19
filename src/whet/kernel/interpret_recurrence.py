"""What a recurrence means: its phases one after the other, each for all elements at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from whet.index import Atom, IndexLike
from whet.kernel.expr import IndexValue
from whet.kernel.grid import Grid
from whet.kernel.recurrence import Assign, Phase, Recur, gate_name
from whet.kernel.semantics import Array, register_dtype
from whet.kernel.tensor import Tensor

_SIDES = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))


def run_recurrence(grid: Grid, tensor: Tensor, anchor: Recur) -> Array:
    """Return the elements of a recurrence: the outputs of all steps, then the states."""
    grid = replace(grid, axes=(anchor.outer, anchor.row, anchor.col))
    kind = register_dtype(tensor.dtype, precise=grid.precise)
    result = np.zeros(tuple(grid.extent(e) for e in tensor.shape), kind)
    _assign(grid, anchor.start, result)
    places = {name: grid.extent(place) for name, place in anchor.states}
    for step in range(grid.extent(anchor.step.extent)):
        for phase in _at_step(anchor, step).phases:
            names = {name: result[place].copy() for name, place in places.items()}
            names |= _products(grid, phase, anchor, names)
            _assign(replace(grid, names=names), phase.assigns, result)
    return result


def _at_step(anchor: Recur, step: int) -> Recur:
    at: dict[Atom, IndexLike] = {anchor.step: step}
    return anchor.rewritten(lambda e: e.substitute(at))


def _products(grid: Grid, phase: Phase, anchor: Recur, names: dict[str, Array]) -> dict[str, Array]:
    """Return ``sum over depth of operand * weight`` for each weight of a phase."""
    wide = replace(grid, axes=(*grid.axes, anchor.depth))
    found = {}
    for k, weight in enumerate(phase.weights):
        operand = names[phase.operand][:, :, None, :]
        found[gate_name(k)] = np.sum(operand * wide.value(weight), axis=-1)
    return found


def _assign(grid: Grid, assigns: Sequence[Assign], result: Array) -> None:
    """Evaluate all assignments, then make them."""
    outer, row, col = (np.arange(n).reshape(s) for n, s in zip(grid.shape, _SIDES, strict=True))
    values = [(grid.value(a.value), _place(grid, a)) for a in assigns]
    for value, place in values:
        result[place, outer, row, col] = value


def _place(grid: Grid, assign: Assign) -> Array:
    assert isinstance(assign.place, IndexValue), "places are indices"
    return grid.index(assign.place.index)

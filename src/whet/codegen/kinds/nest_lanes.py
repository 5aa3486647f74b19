"""How many lanes the vectors of a nest have.

A vector unit has as many lanes as floats fit its registers. Nests that only move bytes, or pick
the largest, do four times as many at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from whet.dtypes import BYTES
from whet.index import Axis, Opaque, Poly
from whet.kernel.expr import Expr, Guard, Read, byte_of, walk
from whet.kernel.spec import Nest
from whet.target import Target


def nest_lanes(nest: Nest, target: Target) -> int:
    """Return the lanes of a nest's vectors: as many as there are bytes in one if all are bytes."""
    wide = target.vector_bytes
    if nest.vector_rows or nest.squares or nest.interleaved or not nest.axes:
        return target.lanes
    extent = nest.axes[-1].extent.constant
    if not extent or extent % wide or not all(e.dtype in BYTES for e in _values(nest)):
        return target.lanes
    return wide if _lie_in_a_row(nest) else target.lanes


def _values(nest: Nest) -> Iterator[Expr]:
    """Yield everything that is computed: what is reduced, what is stored."""
    for root in (*(s.body for s in nest.steps), *(s.value for s in nest.stores)):
        yield from walk(root)


def _lie_in_a_row(nest: Nest) -> bool:
    """Whether neighbouring lanes lie side by side, or are the same, and are guarded alike."""
    lane = nest.axes[-1]
    addresses = [s.address for s in nest.stores]
    reads = [e.address for e in _values(nest) if isinstance(e, Read)]
    addresses += [p for p in reads if byte_of(p) is None]
    conditions = {c for e in _values(nest) if isinstance(e, Guard) for c in e.conditions}
    return all(_step(p, lane) in (0, 1) for p in addresses) and not any(
        lane in c.index.atoms or lane in c.extent.atoms for c in conditions
    )


def _step(address: Poly, lane: Axis) -> int | None:
    """Return how far an address moves from lane to lane, ``None`` if that is not known."""
    if any(isinstance(a, Opaque) for a in address.atoms) or not address.is_affine_in(lane):
        return None
    return address.coefficient(lane).constant

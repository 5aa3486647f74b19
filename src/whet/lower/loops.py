"""Shaping loop nests: merging axes, splitting axes, choosing the axis in lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from whet.index import Atom, Axis, Div, IndexLike, Mod, Opaque, Poly, as_poly, var
from whet.kernel.expr import Expr, Read, byte_of, walk
from whet.kernel.spec import Store
from whet.lower.storage import magnitude

GATHER_COST = 8.0
BROADCAST_COST = 0.25


class Indices(msgspec.Struct, frozen=True):
    """Every index polynomial of a kernel, and which of them are memory addresses."""

    addresses: tuple[Poly, ...]
    others: tuple[Poly, ...]


def indices_of(exprs: Iterable[Expr], stores: Iterable[Store]) -> Indices:
    """Collect the index polynomials of expressions and stores."""
    addresses: dict[Poly, None] = {}
    others: dict[Poly, None] = {}
    stores = tuple(stores)
    for store in stores:
        addresses[store.address] = None
    for root in (*exprs, *(s.value for s in stores)):
        for e in walk(root):
            found = addresses if isinstance(e, Read) else others
            found.update(dict.fromkeys(e.indices()))
    return Indices(tuple(addresses), tuple(others))


def merge_axes(
    axes: Sequence[Axis], indices: Indices
) -> tuple[tuple[Axis, ...], dict[Atom, IndexLike]]:
    """Merge neighbouring axes that every address steps through as if they were one.

    Returns:
        The axes that are left and the substitution that carries indices over to them.
    """
    substitution: dict[Atom, IndexLike] = {}
    left: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            substitution[axis] = 0
            continue
        if left and _mergeable(left[-1], axis, indices, substitution):
            outer = left.pop()
            merged = Axis(axis.name, outer.extent * axis.extent)
            substitution = {
                k: as_poly(v).substitute({outer: 0, axis: var(merged)})
                for k, v in substitution.items()
            }
            substitution[outer] = 0
            substitution[axis] = var(merged)
            left.append(merged)
        else:
            left.append(axis)
    return tuple(left), substitution


def _mergeable(
    outer: Axis, inner: Axis, indices: Indices, substitution: dict[Atom, IndexLike]
) -> bool:
    for p in indices.others:
        atoms = p.substitute(substitution).atoms
        if outer in atoms or inner in atoms:
            return False
    for address in indices.addresses:
        p = address.substitute(substitution)
        if byte_of(p) is not None:
            continue
        if any(
            isinstance(a, Opaque) and (a.expr.depends_on(outer) or a.expr.depends_on(inner))
            for a in p.atoms
        ):
            return False
        if not p.is_affine_in(outer) or not p.is_affine_in(inner):
            return False
        if p.coefficient(outer) != p.coefficient(inner) * inner.extent:
            return False
    return True


def split_axes(
    axes: Sequence[Axis], indices: Indices
) -> tuple[tuple[Axis, ...], dict[Atom, IndexLike]]:
    """Split axes at the constants by which an index divides them, so that indices become affine.

    Returns:
        The new axes and the substitution that carries indices over to them.
    """
    result: list[Axis] = []
    substitution: dict[Atom, IndexLike] = {}
    for axis in axes:
        factor = _divisor(axis, indices)
        if factor is None:
            result.append(axis)
            continue
        high = Axis(f"{axis.name}h", axis.extent // factor)
        low = Axis(f"{axis.name}l", as_poly(factor))
        substitution[axis] = var(high) * factor + var(low)
        result.extend((high, low))
    return tuple(result), substitution


def _divisor(axis: Axis, indices: Indices) -> int | None:
    """Return a constant by which the axis alone is divided and that divides its extent."""
    extent = axis.extent.constant
    for p in (*indices.addresses, *indices.others):
        for atom in p.atoms:
            if not isinstance(atom, Div | Mod) or atom.numerator != var(axis):
                continue
            factor = atom.denominator.constant
            if factor and extent and 1 < factor < extent and extent % factor == 0:
                return factor
    return None


def lane_cost(axis: Axis, addresses: Iterable[Poly], lanes: int) -> float:
    """Estimate memory cost per element with lanes along an axis; lower is better.

    Bytes are looked up in a table alike whatever axis they lie along.
    """
    total = 0.0
    for p in addresses:
        if byte_of(p) is not None:
            continue
        if axis not in p.atoms and not any(isinstance(a, Opaque) for a in p.atoms):
            total += BROADCAST_COST
        elif not p.is_affine_in(axis):
            total += 2 * GATHER_COST
        else:
            step = p.coefficient(axis).constant
            total += {0: BROADCAST_COST, 1: 1.0}.get(step if step is not None else -1, GATHER_COST)
    extent = max(magnitude(axis.extent), 1)
    used = extent / (-(-extent // lanes) * lanes)
    return total / max(used, 1e-9)


def by_stride(axes: Iterable[Axis], address: Poly) -> tuple[Axis, ...]:
    """Sort axes by their step in an address, largest first; absent axes stay in front."""

    def step(axis: Axis) -> int:
        if not address.is_affine_in(axis) or axis not in address.atoms:
            return 1 << 62
        return magnitude(address.coefficient(axis))

    return tuple(sorted(axes, key=lambda a: -step(a)))

"""Cutting an axis where a concatenation goes from one part to the next.

A concatenation that is inlined is an expression of nested guards. Along a piece of the axis all of
them are certain and vanish, so that what is left is one part's own expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from whet.index import Atom, Axis, IndexLike, as_poly, var
from whet.kernel.expr import Expr, Guard, walk


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an axis: ``size`` positions from ``first`` on, an axis of its own."""

    whole: Axis
    first: int
    axis: Axis

    @property
    def points(self) -> dict[Atom, IndexLike]:
        """The whole axis at a position of the piece."""
        return {self.whole: var(self.axis) + self.first}


def pieces_of(axis: Axis, value: Expr) -> list[Piece] | None:
    """Return the pieces of an axis along which a value has no guard left; ``None`` if none do."""
    extent = axis.extent.constant
    if extent is None:
        return None
    ends = {0, extent}
    for e in walk(value):
        for condition in e.conditions if isinstance(e, Guard) else ():
            shift = (condition.index - var(axis)).constant
            size = condition.extent.constant
            if shift is None or size is None:
                return None
            ends |= {end for end in (-shift, size - shift) if 0 < end < extent}
    spans = list(pairwise(sorted(ends)))
    single = len(spans) == 1
    found = [
        Piece(axis, low, axis if single else Axis(f"{axis.name}p{k}", as_poly(high - low)))
        for k, (low, high) in enumerate(spans)
    ]
    left = (walk(value.substitute(piece.points)) for piece in found)
    return None if any(isinstance(e, Guard) for part in left for e in part) else found

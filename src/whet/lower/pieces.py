"""Cutting an axis where a concatenation goes from one part to the next.

A concatenation that is inlined is an expression of nested guards. Along a piece of the axis all of
them are certain and vanish, so that what is left is one part's own expression. Parts that take
turns, as the two elements of each pair of an interleaved rotation do, share a piece.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from whet.index import Atom, Axis, IndexLike, Mod, as_poly, var
from whet.kernel.expr import Expr, Guard, Within, walk


class Piece(msgspec.Struct, frozen=True):
    """A stretch of an axis: positions ``first + step * axis + turn``, for turns below ``step``."""

    whole: Axis
    axis: Axis
    first: int
    step: int

    def points(self, turn: int) -> dict[Atom, IndexLike]:
        """Return the whole axis at a position of the piece."""
        return {self.whole: var(self.axis) * self.step + self.first + turn}


def pieces_of(axis: Axis, value: Expr) -> list[Piece] | None:
    """Return the pieces of an axis along which a value has no guard left; ``None`` if none do."""
    extent = axis.extent.constant
    conditions = [c for e in walk(value) if isinstance(e, Guard) for c in e.conditions]
    step = _step(axis, conditions)
    if extent is None or extent % step:
        return None
    ends = {0, extent}
    for condition in conditions:
        shift, size = (condition.index - var(axis)).constant, condition.extent.constant
        if shift is not None and size is not None:
            ends |= {end for end in (-shift, size - shift) if 0 < end < extent}
    if any(end % step for end in ends):
        return None
    found = _between(axis, sorted(ends), step)
    left = (walk(value.substitute(p.points(turn))) for p in found for turn in range(step))
    return None if any(isinstance(e, Guard) for part in left for e in part) else found


def _between(axis: Axis, ends: list[int], step: int) -> list[Piece]:
    spans = list(pairwise(ends))
    if len(spans) == step == 1:
        return [Piece(axis, axis, 0, 1)]
    return [
        Piece(axis, Axis(f"{axis.name}p{k}", as_poly((high - low) // step)), low, step)
        for k, (low, high) in enumerate(spans)
    ]


def _step(axis: Axis, conditions: list[Within]) -> int:
    """Return after how many positions parts that take turns are there again."""
    atoms = (a for c in conditions for a in c.index.atoms)
    turns = (a.denominator.constant for a in atoms if isinstance(a, Mod) and axis in var(a).atoms)
    return max((t for t in turns if t is not None), default=1)

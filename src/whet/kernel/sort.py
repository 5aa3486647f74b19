"""Sorting: the positions of a row's elements in order, all of them or the first few."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.expr import Expr

if TYPE_CHECKING:
    from whet.kernel.spec import Param

ABSENT = -1
"""What a sort or a filter writes behind the last position that it found."""


class Sorted(msgspec.Struct, frozen=True):
    """The anchor of a sort: element ``rank`` is the position along ``along`` of that rank.

    NaN is larger than every number and equal to itself, 0.0 equals -0.0, and of equal keys the one
    at the lower position comes first, in both directions. There may be more ranks than elements:
    those behind the last hold ``ABSENT``.

    Attributes:
        along: elements of a row.
        depth: keys are compared along it, the first difference decides.
        key: at a point of the definition's other axes, ``along`` and ``depth``.
        rank: the axis of the definition that counts positions in order.
        descending: whether the largest comes first.
        kept: whether an element takes part, at the same point without ``depth``; ``None`` for all.
    """

    along: Axis
    depth: Axis
    key: Expr
    rank: Axis
    descending: bool
    kept: Expr | None = None

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.key, *([] if self.kept is None else [self.kept])]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> Sorted:
        """Return the sort with every expression rewritten."""
        kept = None if self.kept is None else rewrite(self.kept)
        return replace(self, key=rewrite(self.key), kept=kept)


class Sort(msgspec.Struct, frozen=True):
    """The kernel of a sort: a heap of the best elements so far, then a heap sort, in the result.

    Attributes:
        params: pointer parameters.
        outer: rows, outermost first; one of them is a chunk.
        along: elements of a row.
        depth: keys are compared along it.
        key: at a point of the outer axes, ``along`` and ``depth``.
        kept: whether an element takes part; ``None`` for all.
        rank: positions in order.
        param: the result.
        address: where a position goes.
        descending: whether the largest comes first.
        wide: whether keys are compared with the worst of the best in lanes.
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    along: Axis
    depth: Axis
    key: Expr
    kept: Expr | None
    rank: Axis
    param: int
    address: Poly
    descending: bool
    wide: bool


class RadixSort(msgspec.Struct, frozen=True):
    """The kernel of a sort of whole rows, in a workspace of its own.

    Attributes:
        params: pointer parameters.
        outer: rows, outermost first.
        along: elements of a row.
        key: at a point of the outer axes and ``along``.
        kept: whether an element takes part; ``None`` for all.
        rank: positions in order.
        param: the result.
        address: where a position goes.
        descending: whether the largest comes first.
        keys: the parameter for two rows of keys, as unsigned integers, in every line.
        places: the parameter for two rows of positions in every line.
        lines: lines of the workspace; a chunk sorts the rows ``line``, ``line + lines``, ...
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    along: Axis
    key: Expr
    kept: Expr | None
    rank: Axis
    param: int
    address: Poly
    descending: bool
    keys: int
    places: int
    lines: int

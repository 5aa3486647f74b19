"""Filters: the positions of those elements of a row that are kept, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.expr import Expr

if TYPE_CHECKING:
    from whet.kernel.spec import Param


class Kept(msgspec.Struct, frozen=True):
    """The anchor of a filter: element ``rank`` is the position of the element kept as that one.

    Elements are visited in order; one is kept if ``keep`` holds and ``clash`` holds with none
    that was kept before. It ends when there are as many as ranks; those behind the last hold
    ``ABSENT``.

    Attributes:
        along: elements of a row.
        keep: whether an element may be kept, at a point of the definition's other axes and
            ``along``.
        rank: the axis of the definition that counts what is kept.
        other: the same as ``along``, for an element that was kept before.
        clash: whether two elements exclude each other, at a point of the definition's other axes,
            ``along`` and ``other``; ``None`` if none do.
    """

    along: Axis
    keep: Expr
    rank: Axis
    other: Axis
    clash: Expr | None = None

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [e for e in (self.keep, self.clash) if e is not None]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> Kept:
        """Return the filter with every expression rewritten."""
        clash = None if self.clash is None else rewrite(self.clash)
        return replace(self, keep=rewrite(self.keep), clash=clash)


class Filter(msgspec.Struct, frozen=True):
    """The kernel of a filter. A chunk is one row.

    Attributes:
        params: pointer parameters.
        outer: rows, outermost first.
        along: elements of a row.
        keep: whether an element may be kept.
        rank: counts what is kept.
        other: an element that was kept before.
        clash: whether two elements exclude each other; ``None`` if none do.
        param: the result.
        address: where a position goes.
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    along: Axis
    keep: Expr
    rank: Axis
    other: Axis
    clash: Expr | None
    param: int
    address: Poly

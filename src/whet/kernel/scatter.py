"""Scattering: elements are changed at places that are read from data, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis
from whet.kernel.expr import Expr, Within

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Store


class Updates(msgspec.Struct, frozen=True):
    """The anchor of a scatter: the definition's body, then changes to it.

    For every point of ``axes``, in order: ``result[place] = value``, or
    ``result[place] = op(result[place], value)``. A place outside the result changes nothing.

    Attributes:
        axes: one point is one update, the last axis running fastest.
        place: the element that an update changes, one ``IndexValue`` for each dimension; may be
            read from data.
        value: what an update brings, of the result's type.
        op: operation that combines the element with the value, ``""`` to replace it.
        in_place: whether the result lies in the memory of the input that the body reads, which
            is changed; nothing else may read that input.
    """

    axes: tuple[Axis, ...]
    place: tuple[Expr, ...]
    value: Expr
    op: str
    in_place: bool = False

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [*self.place, self.value]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> Updates:
        """Return the updates with every expression rewritten."""
        place = tuple(rewrite(p) for p in self.place)
        return replace(self, place=place, value=rewrite(self.value))


class Update(msgspec.Struct, frozen=True):
    """What changes where an update is applied.

    Attributes:
        axes: loops around the stores, in order; lanes run along the last if ``wide``.
        stores: the changes.
        wide: whether it runs in lanes: they change different elements.
    """

    axes: tuple[Axis, ...]
    stores: tuple[Store, ...]
    wide: bool


class Scatter(msgspec.Struct, frozen=True):
    """The kernel of a scatter. A chunk fills part of the result, then applies the updates to it.

    Attributes:
        params: pointer parameters.
        shared: pairs of an axis of the result and an axis of the updates, at equal positions of
            which updates change only what lies at that position of the result; outermost first.
        fill: the other axes of the result, outermost first; lanes run along the last if
            ``wide_fill``.
        start: what the result holds before the updates, at a point of shared and fill axes.
        axes: the other axes of the updates, in the order in which they are applied, but for those
            of each update itself.
        inside: conditions under which updates are applied, at a point of shared axes and ``axes``.
        updates: what is changed there. Several are made in place, of different elements.
        wide_fill: whether the fill runs in lanes.
        grain: points of the shared axes in one chunk.
        in_place: whether the result holds its elements before the updates already.
    """

    params: tuple[Param, ...]
    shared: tuple[tuple[Axis, Axis], ...]
    fill: tuple[Axis, ...]
    start: Store
    axes: tuple[Axis, ...]
    inside: tuple[Within, ...]
    updates: tuple[Update, ...]
    wide_fill: bool
    grain: int = 1
    in_place: bool = False

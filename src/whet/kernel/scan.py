"""Prefix sums and their kin: every element is combined with all that come before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis
from whet.kernel.expr import Expr

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Store


class Prefix(msgspec.Struct, frozen=True):
    """The anchor of a scan: ``acc = op over r <= step of term at r``, read as ``Var("acc")``.

    Elements are combined in order, one after the other.

    Attributes:
        step: the axis of the definition along which elements are combined.
        op: ``sum``, ``prod``, ``max`` or ``min``.
        term: what is combined, at a point of the definition's axes.
        dtype: type in which it is combined.
        exclusive: whether an element leaves out its own term.
    """

    step: Axis
    op: str
    term: Expr
    dtype: str
    exclusive: bool

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.term]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> Prefix:
        """Return the scan with every expression rewritten."""
        return replace(self, term=rewrite(self.term))


class Scan(msgspec.Struct, frozen=True):
    """The kernel of a scan. A chunk runs all steps of some rows.

    Attributes:
        params: pointer parameters.
        outer: independent rows, outermost first.
        lane: independent rows in lanes; ``None`` if no axis is contiguous but the step.
        step: the axis along which elements are combined.
        op: ``sum``, ``prod``, ``max`` or ``min``.
        term: what is combined.
        dtype: type in which it is combined.
        exclusive: whether an element leaves out its own term.
        stores: what is written at each step; reads the total as ``Var("acc")``.
        grain: points of the outer axes in one chunk.
        block: elements of the lane axis in one chunk, 0 for all; the grain is 1 then.
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    lane: Axis | None
    step: Axis
    op: str
    term: Expr
    dtype: str
    exclusive: bool
    stores: tuple[Store, ...]
    grain: int = 1
    block: int = 0

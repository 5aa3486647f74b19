"""Recurrences: products with a state that the next step starts from, for all steps in one kernel.

As an equation (``Recur``) the result is one tensor whose first dimension holds the outputs of all
steps and, behind them, the states. Steps run in order; so do the phases of a step, and a phase is
done for every element before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.expr import Expr, Read

if TYPE_CHECKING:
    from whet.kernel.spec import Panels, Param, Store


def gate_name(number: int) -> str:
    """Return the name by which a phase's expressions read one of its products."""
    return f"acc{number}"


class Assign(msgspec.Struct, frozen=True):
    """Sets the elements at one position of the first dimension.

    Attributes:
        place: the position, an ``IndexValue``; it may be read from data.
        value: the element at (outer, row, col).
    """

    place: Expr
    value: Expr


class Phase(msgspec.Struct, frozen=True):
    """Products of one state with some weights, then assignments.

    Attributes:
        operand: name of the state that is multiplied, ``""`` if the phase has no product. It is
            not assigned in the phase.
        weights: one load over outer, col and depth for each product; the products are read by the
            names ``gate_name(0)`` and so on.
        assigns: what is set, from products and from states by name as they were before the phase.
    """

    operand: str
    weights: tuple[Expr, ...]
    assigns: tuple[Assign, ...]


class Recur(msgspec.Struct, frozen=True):
    """The anchor of a recurrence; elements are at (position, outer, row, col).

    Attributes:
        outer: independent recurrences with weights of their own, such as directions.
        row: independent recurrences with the same weights: the batch.
        step: time.
        col: elements of a state.
        depth: the same, as the operand of a product.
        states: the states by name, and the position at which each lies.
        start: assignments before the first step.
        phases: what a step does.
    """

    outer: Axis
    row: Axis
    step: Axis
    col: Axis
    depth: Axis
    states: tuple[tuple[str, Poly], ...]
    start: tuple[Assign, ...]
    phases: tuple[Phase, ...]

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        found: list[Expr] = []
        for assign in self.start:
            found.extend((assign.place, assign.value))
        for phase in self.phases:
            found.extend(phase.weights)
            for assign in phase.assigns:
                found.extend((assign.place, assign.value))
        return found

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> Recur:
        """Return the recurrence with every expression rewritten."""

        def assigns(old: tuple[Assign, ...]) -> tuple[Assign, ...]:
            return tuple(Assign(rewrite(a.place), rewrite(a.value)) for a in old)

        phases = tuple(
            Phase(p.operand, tuple(rewrite(w) for w in p.weights), assigns(p.assigns))
            for p in self.phases
        )
        return replace(self, start=assigns(self.start), phases=phases)


class Pass(msgspec.Struct, frozen=True):
    """A phase over flat parameters, with its schedule.

    Attributes:
        operand: the multiplied state, read over outer, row and depth; ``None`` without a product.
        weights: where the weights of each product lie.
        stores: what is written; values read the products and states by name.
        rows: rows of a register tile.
        vectors: vectors of columns of each product in a register tile, the width of a panel.
        unroll: depth steps unrolled in the innermost loop.
    """

    operand: Read | None
    weights: tuple[Panels, ...]
    stores: tuple[Store, ...]
    rows: int
    vectors: int
    unroll: int


class Recurrence(msgspec.Struct, frozen=True):
    """The kernel of a recurrence. A chunk runs all steps of one outer point and some rows.

    Attributes:
        params: pointer parameters.
        outer: independent recurrences with weights of their own.
        row: independent recurrences with the same weights.
        step: time.
        col: elements of a state, in lanes; static.
        depth: the same, as the operand of a product.
        states: states by name, read over outer, row and col.
        start: what is done before the first step.
        phases: what a step does.
        block: rows in one chunk.
    """

    params: tuple[Param, ...]
    outer: Axis
    row: Axis
    step: Axis
    col: Axis
    depth: Axis
    states: tuple[tuple[str, Read], ...]
    start: Pass
    phases: tuple[Pass, ...]
    block: int

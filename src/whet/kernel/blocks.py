"""Products with weights in blocks of few bits: rows become integers, sums are taken in integers.

Where rows stay floats, ``dequantized.py`` says what happens. Here are two anchors and two kernels.
*Rows in blocks*: every 32 values of a row become 8-bit integers and a
scale, laid out ``[tile, group, row in its tile, word]`` so that a register tile reads one stretch
of memory: 8 words with 32 signed codes, a word with the scale, and ``spans`` words with what sums
begin from; what lies behind the last row is not written. *Block products* multiply these rows by
weights in panels of 32 columns; each sum of a group is scaled and added in the order of the depth,
so that a row's result depends on nothing else in the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.block_formats import GROUP, SUPER, BlockFormat
from whet.kernel.expr import Expr

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Step, Store

PANEL = 32
"""Columns of a panel of weights."""

ROW_TILE = 12
"""Rows that lie together: those of the highest register tile."""

CODE_WORDS = GROUP // 4
"""32-bit words with the codes of a group of a row."""

SCALE_WORD = CODE_WORDS

START_WORD = CODE_WORDS + 1

LEVELS = 127.0
"""The largest code of a row."""


def row_words(spans: int) -> int:
    """Return the words that a group of a row takes."""
    return START_WORD + spans


def record_bytes(kind: BlockFormat) -> int:
    """Return the bytes of a group of a panel: scales, minimums, codes."""
    head = PANEL * kind.scale_bytes * (kind.spans + kind.minimums)
    return head + PANEL * GROUP * kind.bits // 8


def super_bytes(kind: BlockFormat) -> int:
    """Return the bytes of the factors in front of 8 groups of a panel; 0 for none."""
    return 2 * PANEL * (1 + kind.minimums) if kind.nested else 0


def period(kind: BlockFormat) -> int:
    """Return the groups of a panel between two sets of factors."""
    return SUPER if kind.nested else 1


def panel_bytes(kind: BlockFormat, depth: int) -> int:
    """Return the bytes of a panel."""
    groups = depth // GROUP
    return groups * record_bytes(kind) + groups // period(kind) * super_bytes(kind)


class QuantizedRows(msgspec.Struct, frozen=True):
    """The anchor of rows in blocks; the body reads its result as ``Var("acc")``.

    Attributes:
        x: a value of a row at (row, depth).
        row: rows.
        depth: values of a row.
        zero: what weights subtract from their codes; sums begin at ``-zero`` times those of the
            codes. At 0 the word is a float instead, the sum of the values, for minimums.
        spans: parts of a group that are summed apart.
        steps: reductions of a row that come first, as of a norm; ``x`` may use their names.
        product: a product that comes first, of the same rows and with a column for each value;
            ``x`` then reads it as ``Var("acc")``.
    """

    x: Expr
    row: Axis
    depth: Axis
    zero: int
    spans: int
    steps: tuple[Step, ...] = ()
    product: BlockSum | None = None

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        product = self.product.expressions() if self.product is not None else []
        return [self.x, *(step.body for step in self.steps), *product]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> QuantizedRows:
        """Return the rows with every expression rewritten."""
        steps = tuple(replace(s, body=rewrite(s.body)) for s in self.steps)
        product = self.product.rewritten(rewrite) if self.product is not None else None
        return replace(self, x=rewrite(self.x), steps=steps, product=product)


class BlockSum(msgspec.Struct, frozen=True):
    """The anchor of a product with weights in blocks; the body reads ``Var("acc")``.

    Attributes:
        rows: element 0 of the rows in blocks.
        weights: element 0 of each of the weights, which hold a row of bytes for each column; their
            columns follow each other.
        row: rows.
        col: columns.
        depth: number of values that are multiplied.
        kind: how weights lie.
    """

    rows: Expr
    weights: tuple[Expr, ...]
    row: Axis
    col: Axis
    depth: int
    kind: BlockFormat

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.rows, *self.weights]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> BlockSum:
        """Return the product with every expression rewritten."""
        weights = tuple(rewrite(w) for w in self.weights)
        return replace(self, rows=rewrite(self.rows), weights=weights)


class RowQuantization(msgspec.Struct, frozen=True):
    """The kernel that brings rows into blocks; a chunk is some groups of one row.

    Attributes:
        params: pointer parameters.
        row: rows.
        depth: values of a row, in lanes.
        x: a value of a row.
        output: parameter of the result.
        zero: see ``QuantizedRows``.
        spans: see ``QuantizedRows``.
        groups: groups in a chunk.
        steps: reductions of a row that come first; each is over one axis.
    """

    params: tuple[Param, ...]
    row: Axis
    depth: Axis
    x: Expr
    output: int
    zero: int
    spans: int
    groups: int
    steps: tuple[Step, ...] = ()


class RowsOut(msgspec.Struct, frozen=True):
    """The end of a product whose results become rows in blocks: a panel's columns are a group.

    Attributes:
        value: a result; reads the sum as ``Var("acc")``.
        output: parameter of the rows in blocks.
        zero: see ``QuantizedRows``.
        spans: see ``QuantizedRows``.
    """

    value: Expr
    output: int
    zero: int
    spans: int


class BlockProduct(msgspec.Struct, frozen=True):
    """The kernel of a product with weights in blocks; a chunk is a panel and a block of rows.

    Attributes:
        params: pointer parameters.
        row: rows, in register tiles.
        col: columns, in lanes.
        rows: parameter of the rows in blocks.
        panels: parameter of the weights, in panels.
        depth: number of values that are multiplied.
        kind: how weights lie.
        stores: epilogue; reads the sum as ``Var("acc")``.
        heights: rows of a register tile, the largest first; the last is 1.
        block: rows of a chunk.
        vectors: vectors of columns of a register tile.
        stretch: groups that are unpacked at once for the many rows of a chunk; 0 for none.
        rows_out: what is done with results instead of stores, if they become rows in blocks.
    """

    params: tuple[Param, ...]
    row: Axis
    col: Axis
    rows: int
    panels: int
    depth: int
    kind: BlockFormat
    stores: tuple[Store, ...]
    heights: tuple[int, ...]
    block: int
    vectors: int
    stretch: int
    rows_out: RowsOut | None = None

    @property
    def panel_count(self) -> Poly:
        """Number of panels."""
        return (self.col.extent + (PANEL - 1)) // PANEL

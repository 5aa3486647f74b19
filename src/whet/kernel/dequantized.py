"""Products of float rows and weights in blocks of few bits: the weights are dequantised on the way.

A weight is ``code * scale + low`` in float32, where ``low`` is the minimum of its group or ``-zero
* scale``. Sums run over a stretch of groups in the order of the depth, and the sums of stretches
are added in order: one row has the same bits in any company.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.block_formats import BlockFormat
from whet.kernel.blocks import PANEL
from whet.kernel.expr import Expr, Read

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Store

STRETCH = 4
"""Groups whose products are summed before they are added to the others."""


class DequantizedSum(msgspec.Struct, frozen=True):
    """The anchor of such a product; the body reads ``Var("acc")``.

    Attributes:
        x: a value of a row at (row, depth), a load.
        weights: element 0 of each of the weights, which hold a row of bytes for each column; their
            columns follow each other.
        row: rows.
        col: columns.
        inner: values that are multiplied.
        kind: how weights lie.
    """

    x: Expr
    weights: tuple[Expr, ...]
    row: Axis
    col: Axis
    inner: Axis
    kind: BlockFormat

    @property
    def depth(self) -> int:
        """Number of values that are multiplied."""
        depth = self.inner.extent.constant
        assert depth is not None, "rows have a known length"
        return depth

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.x, *self.weights]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> DequantizedSum:
        """Return the product with every expression rewritten."""
        weights = tuple(rewrite(w) for w in self.weights)
        return replace(self, x=rewrite(self.x), weights=weights)


class DequantizedProduct(msgspec.Struct, frozen=True):
    """The kernel of such a product; a chunk is some panels and a block of rows.

    Few rows dequantise weights in registers; for many, a stretch of a panel is written to scratch
    once.

    Attributes:
        params: pointer parameters.
        row: rows, in register tiles.
        col: columns, in lanes.
        depth: values that are multiplied.
        x: a value of a row, contiguous in ``depth``.
        panels: parameter of the weights, in panels.
        kind: how weights lie.
        stores: epilogue; reads the sum as ``Var("acc")``.
        heights: rows of a register tile where rows are few, the largest first; the last is 1.
        tile: rows of a register tile where they are many.
        vectors: vectors of columns of a register tile.
        block: rows of a chunk.
        together: panels of a chunk.
    """

    params: tuple[Param, ...]
    row: Axis
    col: Axis
    depth: Axis
    x: Read
    panels: int
    kind: BlockFormat
    stores: tuple[Store, ...]
    heights: tuple[int, ...]
    tile: int
    vectors: int
    block: int
    together: int

    @property
    def panel_count(self) -> Poly:
        """Number of panels."""
        return (self.col.extent + (PANEL - 1)) // PANEL

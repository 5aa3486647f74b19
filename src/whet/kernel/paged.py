"""Attention over keys and values that lie in pages: a pool of blocks, and a table a sequence.

A page holds ``PAGE`` positions of one sequence. Keys of a page lie with positions running fastest,
``[page, head, depth, position]``, so that lanes of a vector are positions; values lie with columns
running fastest, ``[page, head, position, column]``. Both are floats of 32 or 16 bits, or 8-bit
integers with a scale for every position and head, ``[page, head, position]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Axis, Poly
from whet.kernel.expr import Expr, Read

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Store

PAGE = 32
"""Positions of a page."""

COLUMNS = 16
"""Rows of values are padded to a multiple of so many, the floats of the widest vector."""


class Weighing(msgspec.Struct, frozen=True):
    """How scores become weights.

    Attributes:
        scale: factor of the products of queries and keys.
        softcap: scores are ``softcap * tanh(score / softcap)``; 0 for none.
        window: positions that a query sees, its own included; 0 for all before it.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0


class PagedAttend(msgspec.Struct, frozen=True):
    """The anchor of attention over pages; the body reads its result as ``Var("acc")``.

    Attributes:
        q: queries at (token, head, depth).
        tiles: element 0 of the tiles ``[tile, 4]``: row of the table, first token, number of
            tokens, and position of the first one; tokens of a tile follow each other.
        tables: element 0 of the pages of every sequence ``[sequence, page]``.
        keys: element 0 of the pool of keys.
        values: element 0 of the pool of values.
        axes: token, head and column of the result.
        depth: what queries and keys are multiplied along.
        weighing: how scores become weights.
        scales: element 0 of the pools of scales of keys and of values, if these are integers.
    """

    q: Expr
    tiles: Expr
    tables: Expr
    keys: Expr
    values: Expr
    axes: tuple[Axis, Axis, Axis]
    depth: Axis
    weighing: Weighing
    scales: tuple[Expr, ...] = ()

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.q, self.tiles, self.tables, self.keys, self.values, *self.scales]

    def rewritten(self, rewrite: Callable[[Expr], Expr]) -> PagedAttend:
        """Return the attention with every expression rewritten."""
        q, tiles, tables, keys, values, *scales = (rewrite(e) for e in self.expressions())
        return replace(
            self, q=q, tiles=tiles, tables=tables, keys=keys, values=values, scales=tuple(scales)
        )


class Pages(msgspec.Struct, frozen=True):
    """Where pages lie.

    Attributes:
        tiles: parameter of the tiles, 32-bit integers.
        tables: parameter of the tables, 32-bit integers.
        keys: parameter of the keys.
        values: parameter of the values.
        tile_count: number of tiles.
        sequences: rows of the tables.
        width: pages in a row of the tables.
        pool: pages in the pools.
        heads: heads of keys and values.
        padded: elements in a row of values.
        scales: parameters of the scales of keys and of values, if these are integers.
    """

    tiles: int
    tables: int
    keys: int
    values: int
    tile_count: Poly
    sequences: Poly
    width: Poly
    pool: Poly
    heads: int
    padded: int
    scales: tuple[int, ...] = ()


class QueryPart(msgspec.Struct, frozen=True):
    """Some neighbouring elements of every query, computed when a tile begins.

    Attributes:
        first: where they begin in a query.
        axis: the elements, in lanes; with several values, so many elements each.
        values: the elements at (token, head, axis), which take turns.
    """

    first: int
    axis: Axis
    values: tuple[Expr, ...]


class PagedAttention(msgspec.Struct, frozen=True):
    """The kernel: a chunk is one tile and one head of keys, with all heads of queries that use it.

    The weights of a row are summed page by page from its first visible one, each page in one
    order, whatever else is in the tile: equal inputs give equal bits.

    Attributes:
        params: pointer parameters.
        token: tokens of the step.
        head: heads of queries.
        depth: what queries and keys are multiplied along.
        col: columns of the result, in lanes.
        queries: parts of the queries. A single one that is a ``Read``, affine in token and head and
            contiguous, is read where it lies; else all wait in scratch while a tile is computed.
        pages: tables and pools.
        weighing: how scores become weights.
        store: writes ``Var("acc")`` at (token, head, col).
        group: heads of queries to a head of keys.
        rows: rows of a register tile.
    """

    params: tuple[Param, ...]
    token: Axis
    head: Axis
    depth: Axis
    col: Axis
    queries: tuple[QueryPart, ...]
    pages: Pages
    weighing: Weighing
    store: Store
    group: int
    rows: int

    @property
    def in_place(self) -> bool:
        """Whether queries are read where they lie."""
        values = [v for part in self.queries for v in part.values]
        return len(values) == 1 and isinstance(values[0], Read)

"""Schedules of products in pairs: tall tiles of one vector, chunks whose rows stay in scratch."""

from __future__ import annotations

from whet.kernel.pairs import BLOCKS, groups_of
from whet.kernel.schedule import (
    CHUNKS_PER_THREAD,
    LINE_BYTES,
    MOST_PREFETCHES,
    UNROLL,
    Work,
    even,
)
from whet.kernel.spec import Tile
from whet.target import Target

SPARE = 7
"""Registers beside the sums: three vectors of weights, and two sums of two pairs each."""
LEAST_COLUMNS = 4
"""Vectors of columns that share the rows' way to scratch."""
LEAST_ROWS = 8
"""Rows of a tile below which weights and the rest of a round are read too often."""


def most_rows(target: Target) -> int:
    """Return the rows of the tallest register tile."""
    return target.registers - SPARE


def paired_tile(work: Work, target: Target, threads: int) -> Tile | None:
    """Return the schedule of a product in pairs, ``None`` if it is faster without.

    Args:
        work: the product; its depth is known, and so are its rows.
        target: processor.
        threads: threads that chunks are cut for.
    """
    columns = -(-work.cols // target.lanes)
    if not target.adds_apart or not groups_of(work.depth, target.lanes):
        return None
    rows = even(work.rows, most_rows(target))
    if rows < LEAST_ROWS or columns < LEAST_COLUMNS:
        return None
    row_items, panels = _chunks(work, target, threads, rows)
    prefetch = _prefetch(work, target, row_items)
    return Tile(rows, 1, UNROLL, row_items, panels, prefetch, by_rows=True)


def _chunks(work: Work, target: Target, threads: int, rows: int) -> tuple[int, int]:
    """Return row tiles and panels of a chunk: packed rows fill half of the second cache at most.

    Small weights stay near, whatever is done in between: then chunks are whole rows, which are
    packed once. Else each panel is read for as many rows as there is room for, and chunks
    of the same rows find them in scratch.
    """
    items = work.outer * -(-work.rows // rows)
    panels = -(-work.cols // target.lanes)
    room = target.l2_bytes // 2
    together = max(1, min(items, room // (4 * rows * work.depth)))
    wanted = CHUNKS_PER_THREAD * threads if threads > 1 else 1
    small = 4 * work.depth * work.cols <= room
    while small and together > 1 and -(-items // together) < wanted:
        together = -(-together // 2)
    columns = panels
    while columns > 2 and -(-items // together) * -(-panels // columns) < wanted:
        columns = -(-columns // 2)
    return even(items, together), even(panels, columns)


def _prefetch(work: Work, target: Target, row_items: int) -> int:
    """Return lines of the next panel that are fetched at each round, if panels come from memory."""
    panel_bytes = work.depth * target.vector_bytes
    if 4 * work.depth * work.cols < target.l2_bytes // 16:
        return 0
    rounds = row_items * (work.depth // BLOCKS)
    return min(-(-panel_bytes // (LINE_BYTES * max(rounds, 1))), MOST_PREFETCHES)

"""Schedules of products in pairs: tall tiles of one vector, chunks whose rows stay in scratch."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.kernel.pairs import BLOCKS, groups_of
from whet.kernel.schedule import CHUNKS_PER_THREAD, LINE_BYTES, MOST_PREFETCHES, UNROLL, even
from whet.kernel.spec import Tile
from whet.target import Target

SPARE = 7
"""Registers beside the sums: three vectors of weights, and two sums of two pairs each."""
LEAST_COLUMNS = 3
"""Vectors of columns that share the rows' way to scratch."""
MOST_CACHES = 2
"""Second caches that a tile's rows may fill: each panel reads them all."""
FINER = 2
"""Times as many chunks as usual where they are whole rows: more of them cost nothing."""
LEAST_ROWS = 8
"""Rows of a tile below which weights and the rest of a round are read too often."""


class PairedWork(msgspec.Struct, frozen=True):
    """The size of a product by constant weights that may be taken in pairs.

    Attributes:
        outer: number of points of the outer axes, or groups of lines that a tile takes together.
        rows: rows of each.
        cols: columns.
        depth: depth values of all taps.
        whole: whether a register tile takes all rows, as they are those of several lines.
    """

    outer: int
    rows: int
    cols: int
    depth: int
    whole: bool = False


def most_rows(target: Target) -> int:
    """Return the rows of the tallest register tile."""
    return target.registers - SPARE


def paired_tile(work: PairedWork, target: Target, threads: int) -> Tile | None:
    """Return the schedule of a product in pairs, ``None`` if it is faster without.

    Args:
        work: the product.
        target: processor.
        threads: threads that chunks are cut for.
    """
    rows = even(work.rows, most_rows(target))
    columns = -(-work.cols // target.lanes)
    if not may_be_paired(work, target) or rows < LEAST_ROWS or columns < LEAST_COLUMNS:
        return None
    if 4 * rows * work.depth > MOST_CACHES * target.l2_bytes:
        return None
    row_items, panels = _chunks(work, target, threads, rows)
    prefetch = _prefetch(work, target, row_items)
    return Tile(rows, 1, UNROLL, row_items, panels, prefetch, by_rows=True)


def may_be_paired(work: PairedWork, target: Target) -> bool:
    """Tell whether a product has any pairs, on a processor that adds beside multiply-adds."""
    return target.adds_apart and groups_of(work.depth, target.lanes) > 0


def fits_pairs(tile: Tile, work: PairedWork, target: Target) -> bool:
    """Tell whether a product in pairs can be done with a schedule."""
    whole = tile.vectors == 1 and tile.block == tile.near == 0 and not tile.pipelined
    tall = tile.rows <= min(most_rows(target), work.rows)
    tall = tall and (tile.rows == work.rows or not work.whole)
    return may_be_paired(work, target) and whole and tall and target.lanes % tile.unroll == 0


def paired_variants(tile: Tile, work: PairedWork, target: Target) -> list[Tile]:
    """Return schedules that differ in one thing: the chunks, what is fetched, the tile's height."""
    items, panels = tile.row_items, tile.panels
    found = [replace(tile, row_items=n) for n in (2 * items, -(-items // 2))]
    found += [replace(tile, panels=n) for n in (2 * panels, -(-panels // 2))]
    found += [replace(tile, prefetch=lines) for lines in (0, 1, 2)]
    heights = (even(work.rows, tile.rows - 1), even(work.rows, tile.rows + 1))
    found += [replace(tile, rows=rows) for rows in heights if rows >= LEAST_ROWS]
    found.append(replace(tile, by_rows=not tile.by_rows))
    return [t for t in found if fits_pairs(t, work, target)]


def _chunks(work: PairedWork, target: Target, threads: int, rows: int) -> tuple[int, int]:
    """Return row tiles and panels of a chunk: packed rows fill half of the second cache at most.

    Threads share out rows, so that each packs its own: with all rows of a BERT-base in one chunk
    both packed them all, which took 4 % of the time. Small weights stay near, whatever is done in
    between: then chunks are whole rows, which are packed once. Else each panel is read for as many
    rows as there is room for, and chunks of the same rows find them in scratch.
    """
    items = work.outer * -(-work.rows // rows)
    panels = -(-work.cols // target.lanes)
    room = target.l2_bytes // 2
    together = max(1, min(-(-items // threads), room // (4 * rows * work.depth)))
    wanted = CHUNKS_PER_THREAD * threads if threads > 1 else 1
    small = 4 * work.depth * work.cols <= room
    while small and together > 1 and -(-items // together) < FINER * wanted:
        together = -(-together // 2)
    columns = panels
    while columns > 2 and -(-items // together) * -(-panels // columns) < wanted:
        columns = -(-columns // 2)
    return even(items, together), even(panels, columns)


def _prefetch(work: PairedWork, target: Target, row_items: int) -> int:
    """Return lines of the next panel that are fetched at each round, if panels come from memory."""
    panel_bytes = work.depth * target.vector_bytes
    if 4 * work.depth * work.cols < target.l2_bytes // 16:
        return 0
    rounds = row_items * (work.depth // BLOCKS)
    return min(-(-panel_bytes // (LINE_BYTES * max(rounds, 1))), MOST_PREFETCHES)

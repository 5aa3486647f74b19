"""Products whose register tiles end among the products of the next tile (decision 36)."""

from __future__ import annotations

from msgspec.structs import replace

from whet.kernel.schedule import Work, choose_tile, even
from whet.kernel.spec import Tile
from whet.target import Target

ROWS, VECTORS = 6, 2
SPARE = 8
"""Registers beside the sums of two tiles: for operands, and for what is scaled and rounded."""
LEAST_TILES = 16
"""Tiles of a chunk, of which the last one ends alone."""
LEAST_PRODUCTS = 100_000
"""Products of vectors below which nothing is gained that is worth twice the code: 30 us or less."""
MOST_STEPS = 64
"""Depth steps up to which that is faster; the tiles of deeper products are better large."""


def choose_schedule(work: Work, target: Target, threads: int) -> Tile:
    """Return the schedule of a product with the least estimated time."""
    tile = choose_tile(work, target, threads)
    return _pipelined(tile, work, target) if _pays(tile, work, target) else tile


def pipelined_variants(tile: Tile, work: Work, target: Target) -> list[Tile]:
    """Return the schedule in pipelined tiles, if there is one."""
    option = _pipelined(tile, work, target)
    return [option] if fits_pipelined(option, work, target) else []


def fits_pipelined(tile: Tile, work: Work, target: Target) -> bool:
    """Tell whether a product can be done with a schedule of pipelined tiles."""
    lines = work.outer == 1 or tile.row_items % -(-work.rows // tile.rows) == 0
    whole = lines and work.cols % (tile.vectors * target.lanes) == 0
    room = 2 * tile.rows * tile.vectors <= target.registers - SPARE
    return work.pipelines and whole and room and tile.block == tile.prefetch == tile.near == 0


def _pays(tile: Tile, work: Work, target: Target) -> bool:
    """Whether the end of a tile takes more than its smaller size costs.

    A processor that starts two products a cycle scales and rounds in the same units.
    """
    shallow = work.reduction <= MOST_STEPS and tile.prefetch == tile.block == 0
    panels = -(-work.cols // target.lanes)
    large = work.outer * work.rows * panels * work.reduction >= LEAST_PRODUCTS
    shape = _pipelined(tile, work, target)
    narrow = target.products_per_cycle == 1 and shape.rows == ROWS
    return shallow and large and narrow and fits_pipelined(shape, work, target)


def _pipelined(tile: Tile, work: Work, target: Target) -> Tile:
    """Return pipelined tiles in chunks of about as many results."""
    rows = min(ROWS, work.rows)
    line, panels = -(-work.rows // rows), -(-work.cols // (VECTORS * target.lanes))
    columns = min(max(tile.panels * tile.vectors // VECTORS, 1), panels)
    together = max(tile.row_items * tile.rows // rows, -(-LEAST_TILES // columns))
    row_items = even(line, min(together, line))
    if work.outer > 1:
        row_items = line * even(work.outer, min(-(-together // line), work.outer))
    return replace(
        tile,
        rows=rows,
        vectors=VECTORS,
        row_items=row_items,
        panels=even(panels, columns),
        prefetch=0,
        block=0,
        near=0,
        pipelined=True,
    )

"""Default schedules of products: register tiles and chunk sizes from a cost model.

The tuner may replace any of these; nothing here depends on what a kernel computes.
"""

from __future__ import annotations

from itertools import product as pairs

import msgspec

from whet.kernel.spec import Tile
from whet.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 1.5
PANEL_BYTES_PER_CYCLE = 40
PANEL_CYCLES_PER_BYTE = 0.007
"""What of a panel's way from the level-2 cache is not hidden behind multiply-adds."""
FMA_LATENCY = 4
TILE_OVERHEAD = 30
MAX_VECTORS = 8
CHUNK_CYCLES = 12_000
CHUNKS_PER_THREAD = 8
PAIRS_PER_THREAD = 6
"""Chunks of two panels that are enough where only a run knows the rows, as more rows give more.

Cut on, chunks of BERT's narrow products are one panel wide, and each reads all rows again.
"""
DEEP_PANELS = 12
"""Panels that all row tiles read before the next ones, so that they are still near: about 1 MB."""
UNROLL = 4
LINE_BYTES = 64
MOST_PREFETCHES = 4
NEAR_STEPS = 8
"""Steps that a panel is fetched ahead into the first cache.

With panel and rows there a 13 x 2 tile reaches 150 of 152 GFLOP/s (Cascade Lake); with the panel in
the second one, 384 steps deep, 131, fetched ahead 136, and unrolled twice as far 139.
"""
LONG_UNROLL = 8
SPARE = 2
MOST_EDGE_ROWS = 10
"""Rows with a pointer each, where there are 16 general registers."""
MIN_BLOCK = 192
OPEN_ROWS = 128
"""Rows that a schedule is made for if only a run knows how many there are."""
LOAD_COST = 0.1


class Work(msgspec.Struct, frozen=True):
    """The size of a contraction.

    Attributes:
        outer: number of points of the outer axes.
        rows: extent of the row axis.
        cols: extent of the column axis.
        reduction: product of taps and depth.
        depth: extent of the depth axis.
        edges: whether rows may lie outside the operand.
        unroll: depth steps unrolled, 0 for as many as suit a plain product.
        open: whether only a run knows how many rows there are, so that they may be few.
        blocks: whether the reduction may be done in blocks.
        pipelines: whether register tiles may be pipelined: sums of integers without taps, over
            rows of one axis.
    """

    outer: int
    rows: int
    cols: int
    reduction: int
    depth: int
    edges: bool
    unroll: int = 0
    open: bool = False
    blocks: bool = False
    pipelines: bool = False


def choose_tile(work: Work, target: Target, threads: int) -> Tile:
    """Return the register tile and chunks with the least estimated time."""
    return tile_of_shape(work, target, threads, register_tile(work, target, threads))


def tile_of_shape(work: Work, target: Target, threads: int, shape: tuple[int, int]) -> Tile:
    """Return the schedule of a register tile of so many rows and vectors."""
    rows, vectors = shape
    near = _near_steps(work, target, vectors)
    longer = near or (work.edges and not target.lane_fma)
    unroll = work.unroll or (LONG_UNROLL if longer else UNROLL)
    block = _depth_block(work, target, (rows, vectors), unroll)
    row_items, panels = _chunks(work, target, threads, (rows, vectors), block)
    prefetch = _prefetch(work, target, row_items, vectors, unroll)
    by_rows = work.reduction * work.cols * 4 <= target.l2_bytes // 2
    return Tile(rows, vectors, unroll, row_items, panels, prefetch, block, by_rows, near)


def _near_steps(work: Work, target: Target, vectors: int) -> int:
    """Return the depth steps that panels are fetched ahead, if they do not stay in the first cache.

    Measured with vectors of a whole cache line, and on products of floats.
    """
    panel_bytes = work.reduction * vectors * target.vector_bytes
    fits = panel_bytes <= target.l1_bytes // 2
    return NEAR_STEPS if work.blocks and target.vector_bytes == LINE_BYTES and not fits else 0


def _depth_block(work: Work, target: Target, tile: tuple[int, int], unroll: int) -> int:
    """Return depth steps of a block, 0 if the reduction is done at once (decision 15).

    Blocks pay where a panel, or the rows that share it, do not stay in the level-2 cache. A
    panel of less than an eighth of it leaves room for many rows, and a block costs each tile 2 %.
    """
    if not work.blocks:
        return 0
    rows, vectors = tile
    items = work.outer * -(-work.rows // rows)
    panel_bytes = work.reduction * vectors * target.vector_bytes
    row_bytes = items * rows * work.depth * 4
    crowded = panel_bytes > target.l2_bytes // 4 or row_bytes > target.l2_bytes // 4
    if items < 2 or not crowded or panel_bytes < target.l2_bytes // 8:
        return 0
    most = target.l2_bytes // 16 // (vectors * target.vector_bytes)
    for count in range(1, work.depth // MIN_BLOCK + 1):
        size, rest = divmod(work.depth, count)
        if not rest and size % unroll == 0 and size <= most:
            return size if size < work.reduction else 0
    return 0


def _prefetch(work: Work, target: Target, row_items: int, vectors: int, unroll: int) -> int:
    """Return lines of the next panel to fetch per unrolled step, if panels come from memory.

    Weights larger than the level-2 cache are read once per panel at the latency of memory; spread
    over the row tiles of the panel before, their fetching costs nothing. Where only a run
    knows how many tiles there are, part of a panel is fetched rather than nothing.
    """
    panel_bytes = work.reduction * vectors * target.vector_bytes
    if panel_bytes * -(-work.cols // (vectors * target.lanes)) < target.l2_bytes // 16:
        return 0
    steps = row_items * work.reduction // unroll
    lines = -(-panel_bytes // (LINE_BYTES * max(steps, 1)))
    if lines > MOST_PREFETCHES:
        return MOST_PREFETCHES if work.open else 0
    return lines


def register_tile(work: Work, target: Target, threads: int) -> tuple[int, int]:
    """Return rows and vectors of the tile with the least estimated time."""
    best: tuple[float, int, int] | None = None
    most = min(MAX_VECTORS, -(-work.cols // target.lanes))
    for vectors in range(1, most + 1):
        tallest = most_rows(target, vectors)
        if work.edges and not target.lane_fma:
            tallest = min(tallest, MOST_EDGE_ROWS)
        for rows in range(1, min(tallest, work.rows) + 1):
            cost = cycles(work, target, rows, vectors)
            cost *= _longest_share(work, target, threads, (rows, vectors))
            if target.lane_fma:
                cost *= 1 + LOAD_COST * (1 / target.lanes / vectors + 1 / rows)
            if best is None or cost < best[0] * 0.999:
                best = cost, rows, vectors
    assert best is not None
    return best[1], best[2]


def _longest_share(work: Work, target: Target, threads: int, tile: tuple[int, int]) -> float:
    """Return what the largest share is of an even one, where threads share out panels alone.

    A classifier of 1000 columns has nine panels of 7 vectors, or eight of 8.
    """
    rows, vectors = tile
    if work.open or work.outer * -(-work.rows // rows) > 1:
        return 1.0
    panels = -(-work.cols // (vectors * target.lanes))
    return -(-panels // threads) * threads / panels


def most_rows(target: Target, vectors: int) -> int:
    """Return how many rows of accumulators leave room for the operands.

    They are the vectors of a depth step and one scalar, and what LLVM loads ahead of the next step;
    or a vector along the depth for each row.
    """
    if target.lane_fma:
        return (target.registers - SPARE - vectors) // (vectors + 1)
    hoisted = target.registers // 16
    return (target.registers - hoisted - 1 - vectors) // vectors


def cycles(work: Work, target: Target, rows: int, vectors: int) -> float:
    """Estimate cycles of the whole contraction with one register tile."""
    heights = balanced(work.rows, rows)
    total_vectors = -(-work.cols // target.lanes)
    shared = target.lanes if target.lane_fma else 1
    widths = [(vectors, total_vectors // vectors)]
    if total_vectors % vectors:
        widths.append((total_vectors % vectors, 1))
    total = 0.0
    for (height, tiles), (width, panels) in pairs(heights, widths):
        fma = max(height * width / FMA_PER_CYCLE, FMA_LATENCY)
        loads = (height / shared + width) / LOADS_PER_CYCLE
        panel = width * target.vector_bytes
        step = max(fma, loads, panel / PANEL_BYTES_PER_CYCLE) + PANEL_CYCLES_PER_BYTE * panel
        total += tiles * panels * (work.reduction * step + TILE_OVERHEAD + 3 * height * width)
    return total * work.outer


def balanced(extent: int, size: int) -> list[tuple[int, int]]:
    """Split an extent into tiles of nearly equal size; returns (size, count) pairs."""
    count = -(-extent // size)
    small, larger = divmod(extent, count)
    return [(small + 1, larger), (small, count - larger)] if larger else [(small, count)]


def _chunks(
    work: Work, target: Target, threads: int, tile: tuple[int, int], block: int
) -> tuple[int, int]:
    """Return row items and panels of one chunk: operands fit the cache, threads stay busy."""
    rows, vectors = tile
    items = work.outer * -(-work.rows // rows)
    panels = -(-work.cols // (vectors * target.lanes))
    row_bytes = rows * (block or work.depth) * 4
    deep = _is_deep(work, target, vectors, block)
    room = target.l2_bytes // (2 if deep else 4)
    if work.reduction * work.cols * 4 <= target.l1_bytes // 2:
        # All weights stay in the first cache: finish a few rows while they are there too.
        room, row_bytes = target.l1_bytes // 4, rows * (work.depth + work.cols) * 4
    row_items = max(1, min(items, room // max(row_bytes, 1)))
    if work.cols > work.depth and work.reduction * work.cols * 4 <= room:
        # Weights stay in the second cache: finish whole rows of the larger result, in order.
        row_items = 1
    cycles = work.reduction * max(rows * vectors / FMA_PER_CYCLE, FMA_LATENCY)
    wanted = CHUNKS_PER_THREAD * threads if threads > 1 else 1
    columns = panels
    if block:
        sums = row_items * rows * vectors * target.vector_bytes
        columns = max(1, min(panels, room // sums))
    elif deep and row_items < items:
        columns = min(panels, DEEP_PANELS)
    while (1 if work.open else _count(items, row_items)) * _count(panels, columns) < wanted:
        if row_items * columns * cycles <= CHUNK_CYCLES or (row_items == 1 and columns == 1):
            break
        if work.open and columns == 2 and panels >= 2 * PAIRS_PER_THREAD * threads:
            break
        if columns > 1 and (row_items == 1 or columns * vectors * target.lanes >= row_items * rows):
            columns = -(-columns // 2)
        else:
            row_items = -(-row_items // 2)
    if row_items == 1 and threads > 1 and not work.open:
        columns = _shorter(_count(items, 1), panels, columns, cycles, 2 * wanted)
    return even(items, row_items), even(panels, columns)


def _is_deep(work: Work, target: Target, vectors: int, block: int) -> bool:
    """Whether a panel takes so much of the level-2 cache that its reading again is to be spared."""
    panel_bytes = work.depth * vectors * target.vector_bytes
    plain = work.reduction == work.depth and not block
    return plain and panel_bytes > target.l2_bytes // 16


def _shorter(items: int, panels: int, columns: int, cycles: float, wanted: int) -> int:
    """Return fewer panels of a chunk of one row tile, so that threads end together.

    That costs nothing: the weights pass by once for each row tile, however they are cut. With 16
    chunks for two threads one of them waited for 10 of 125 us.
    """
    while columns > 1 and columns * cycles > CHUNK_CYCLES:
        if items * _count(panels, columns) >= wanted:
            break
        columns = -(-columns // 2)
    return columns


def _count(total: int, size: int) -> int:
    return -(-total // size)


def even(total: int, size: int) -> int:
    """Shrink a block size so that blocks are of nearly equal size."""
    return -(-total // _count(total, size))

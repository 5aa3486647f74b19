"""Default schedules of Winograd convolutions, and whether one is faster than a direct one."""

from __future__ import annotations

from whet.kernel.schedule import (
    FMA_PER_CYCLE,
    LINE_BYTES,
    MOST_PREFETCHES,
    UNROLL,
    Work,
    most_rows,
    register_tile,
)
from whet.kernel.spec import Tile
from whet.kernel.winograd import FILTERINGS, FOUR
from whet.kernel.winograd_whole_schedule import fits_whole, whole_cycles, whole_tile
from whet.kernel.winograd_work import Convolution
from whet.target import Target

BYTES_PER_CYCLE = 5
TRANSFORM_CYCLES = {1: 5.0, 2: 2.5}
"""Cycles of a vector and position by stride; every other pixel is mostly taken as it is."""
WINOGRAD_GAIN = 0.9
PANEL_VECTORS = 2
"""Vectors of filters that are done at a time, mostly."""
NEAR = 1 / 3
"""Part of the level-2 cache for the scratch of a block, beside the weights, pixels and results."""
NEAR_ALONE = 0.6
"""The same where the weights do not stay in that cache.

A Cascade Lake took 2,520 us for 112 x 112 x 64 to 128 with 49 tiles, 2,890 with 131, whose kept
lines alone are 1 MB; 4,510 for 4,770 from 128 to 128.
"""
LIKELY = 0.95
"""What it may take of the estimate of tiles of 2: DenseNet-121 takes 1.01 of its time else."""
NEAR_WEIGHTS = 0.7
"""What a whole image may take of the estimate of tiles of 4, whose weights may be near after all.

On 20 pixels of 128 channels 0.84 is estimated, and 1.2 taken; for 256 channels, which are done in
tiles of 2 rather, 0.81 and 0.73 (two threads of a Zen 4).
"""
LEAST_ITEMS = 4
"""Register tiles that weights from afar are read for, at least: two lines are fetched at a step.

With three instead of four products of 56 x 56 x 128 to 256 took 1,760 us, not 1,660.
"""


def choose_winograd(work: Convolution, target: Target, threads: int) -> tuple[int, Tile] | None:
    """Return tile size and schedule of a Winograd convolution, or ``None`` if direct is faster.

    Weighs the multiplications saved against the transforms and against reading larger weights.
    """
    pixels = work.images * work.rows * work.cols
    macs = work.depth * work.filters / target.lanes / FMA_PER_CYCLE
    direct = max(pixels * 9 * macs / threads, 9 * work.depth * work.filters * 4 / BYTES_PER_CYCLE)

    def cycles(size: int) -> float:
        estimate = whole_cycles if work.filtering(size).whole else _tiled_cycles
        return estimate(work, target, threads, size)

    sizes = sizes_for(work, target)
    size = min((s for s in sizes if not work.filtering(s).wide), key=cycles)
    for wide in (s for s in sizes if work.filtering(s).wide):
        if cycles(wide) < cycles(size) * (NEAR_WEIGHTS if size == FOUR.size else LIKELY):
            size = wide
    if cycles(size) >= WINOGRAD_GAIN * direct:
        return None
    return size, winograd_of_size(work, target, threads, size)


def sizes_for(work: Convolution, target: Target) -> list[int]:
    """Return the sizes of tiles that a convolution can be done in, along one side."""
    return [
        size
        for (size, stride), filtering in FILTERINGS.items()
        if stride == work.stride and (not filtering.whole or fits_whole(work, target, size))
    ]


def _tiled_cycles(work: Convolution, target: Target, threads: int, size: int) -> float:
    """Estimate the cycles of a convolution in tiles that are smaller than the image."""
    tiles, span = _winograd_tiles(work, size), work.span(size) ** 2
    tile = winograd_of_size(work, target, threads, size)
    padded = -(-tiles // tile.rows) * tile.rows
    macs = work.depth * work.filters / target.lanes / FMA_PER_CYCLE
    each = span * TRANSFORM_CYCLES[work.stride]
    transforms = tiles * (work.depth + work.filters) / target.lanes * each
    memory = work.weights(size) / BYTES_PER_CYCLE
    return max((padded * span * macs + transforms) / threads, memory)


def _winograd_tiles(work: Convolution, size: int) -> int:
    return work.images * -(-work.rows // size) * -(-work.cols // size)


def winograd_of_size(work: Convolution, target: Target, threads: int, size: int) -> Tile:
    """Return a schedule for tiles of a size.

    The transformed tiles stay near, or else the weights.

    Weights that the level-2 cache does not hold come from afar for every block of tiles, and are
    fetched while the block before is multiplied: it has to be large enough for that. A block may be
    a quarter larger rather than two: one thread took 4,270 us for 16 x 16 x 512 then, not 4,740.
    """
    if work.filtering(size).whole:
        return whole_tile(work, target, threads, size)
    tiles, weights = _winograd_tiles(work, size), work.weights(size)
    columns = 2 if _shares_columns(work, target, threads, size) else 1
    near = NEAR if weights <= target.l2_bytes else NEAR_ALONE
    room = int(near * target.l2_bytes) // _tile_bytes(work, target, size, columns)
    if weights > target.l2_bytes:
        room = max(room, _least_block(target))
    tallest = most_rows(target, PANEL_VECTORS)
    if room > tallest:
        room -= room % tallest
    most = tiles if columns > 1 else max(1, min(tiles, room))
    sharing = threads // columns
    rounds = -(-tiles // (most * sharing))
    if weights > target.l2_bytes and 4 * tiles <= 5 * most * sharing:
        rounds = 1
    blocks = min(rounds * sharing, tiles)
    share = -(-tiles // blocks)
    rows, vectors = register_tile(
        Work(1, share, work.filters, work.depth, work.depth, False), target, 1
    )
    items = -(-share // rows)
    panels = -(-work.filters // (vectors * target.lanes))
    steps = items * work.depth // UNROLL
    lines = -(-work.depth * vectors * target.vector_bytes // (LINE_BYTES * max(steps, 1)))
    return Tile(rows, vectors, UNROLL, items, -(-panels // columns), min(lines, MOST_PREFETCHES))


def _least_block(target: Target) -> int:
    """Return the tiles that weights from afar are read for, at least."""
    return LEAST_ITEMS * most_rows(target, PANEL_VECTORS)


def _shares_columns(work: Convolution, target: Target, threads: int, size: int) -> bool:
    """Whether halves of the filters are shared out, so that no thread reads all weights.

    Each thread then transforms all tiles of two, which pays where half of them are too few to
    fetch the weights meanwhile. Two threads of a Cascade Lake took 520 us instead of 600 for
    14 x 14 x 256 (decision 24), 4,360 instead of 5,440 for 28 x 28 x 512 (decision 25).
    """
    weights = work.weights(size)
    few = 4 * _winograd_tiles(work, size) <= 5 * _least_block(target) * (threads // 2)
    return threads % 2 == 0 and weights > 2 * target.l2_bytes and few


def _tile_bytes(work: Convolution, target: Target, size: int, columns: int) -> int:
    """Return the scratch of a tile: a group of positions, a panel of products, the kept lines."""
    filtering = work.filtering(size)
    group = filtering.together * filtering.span * (work.depth + PANEL_VECTORS * target.lanes)
    return 4 * (group + len(filtering.kept) * size * -(-work.filters // columns))

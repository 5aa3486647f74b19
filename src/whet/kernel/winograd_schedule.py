"""Default schedules of Winograd convolutions, and whether one is faster than a direct one."""

from __future__ import annotations

from dataclasses import dataclass

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
from whet.kernel.winograd import FILTERINGS, sizes_of
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
LEAST_ITEMS = 4
"""Register tiles that weights from afar are read for, at least: two lines are fetched at a step.

With three instead of four products of 56 x 56 x 128 to 256 took 1,760 us, not 1,660.
"""


@dataclass(frozen=True, slots=True)
class Convolution:
    """The size of a 3x3 convolution: output pixels, input and output channels, stride."""

    images: int
    rows: int
    cols: int
    depth: int
    filters: int
    stride: int = 1

    def span(self, size: int) -> int:
        """Return the products along one side of a tile of so many outputs."""
        return FILTERINGS[size, self.stride].span

    def weights(self, size: int) -> int:
        """Return the bytes of all transformed weights for tiles of so many outputs."""
        return 4 * FILTERINGS[size, self.stride].kinds ** 2 * self.depth * self.filters


def choose_winograd(work: Convolution, target: Target, threads: int) -> tuple[int, Tile] | None:
    """Return tile size and schedule of a Winograd convolution, or ``None`` if direct is faster.

    Weighs the multiplications saved against the transforms and against reading larger weights.
    """
    pixels = work.images * work.rows * work.cols
    macs = work.depth * work.filters / target.lanes / FMA_PER_CYCLE
    direct = max(pixels * 9 * macs / threads, 9 * work.depth * work.filters * 4 / BYTES_PER_CYCLE)
    best: tuple[float, int, Tile] | None = None
    each = TRANSFORM_CYCLES[work.stride]
    for size in sizes_of(work.stride):
        tiles = _winograd_tiles(work, size)
        span = work.span(size) ** 2
        tile = winograd_of_size(work, target, threads, size)
        padded = -(-tiles // tile.rows) * tile.rows
        transforms = tiles * (work.depth + work.filters) / target.lanes * span * each
        memory = work.weights(size) / BYTES_PER_CYCLE
        cost = max((padded * span * macs + transforms) / threads, memory)
        if best is None or cost < best[0]:
            best = cost, size, tile
    assert best is not None
    return best[1:] if best[0] < WINOGRAD_GAIN * direct else None


def _winograd_tiles(work: Convolution, size: int) -> int:
    return work.images * -(-work.rows // size) * -(-work.cols // size)


def winograd_of_size(work: Convolution, target: Target, threads: int, size: int) -> Tile:
    """Return a schedule whose transformed tiles of a size, or else the weights, stay near.

    Weights that the level-2 cache does not hold come from afar for every block of tiles, and are
    fetched while the block before is multiplied: it has to be large enough for that. A block may be
    a quarter larger rather than two: one thread took 4,270 us for 16 x 16 x 512 then, not 4,740.
    """
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
    filtering = FILTERINGS[size, work.stride]
    group = filtering.together * filtering.span * (work.depth + PANEL_VECTORS * target.lanes)
    return 4 * (group + len(filtering.kept) * size * -(-work.filters // columns))

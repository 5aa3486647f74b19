"""Default schedules of Winograd convolutions, and whether one is faster than a direct one."""

from __future__ import annotations

from dataclasses import dataclass

from whet.kernel.schedule import (
    FMA_PER_CYCLE,
    LINE_BYTES,
    MOST_PREFETCHES,
    UNROLL,
    Work,
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

    Weights that the level-2 cache does not hold come from afar for every block of tiles: then few
    blocks are better than transformed tiles that stay in that cache.
    """
    tiles, span = _winograd_tiles(work, size), work.span(size) ** 2
    weights = work.weights(size)
    columns = 2 if threads % 2 == 0 and _shares_columns(work, target, size) else 1
    near = 2 * target.l2_bytes if weights > target.l2_bytes else target.l2_bytes // 2
    room = near // (4 * span * (work.depth + PANEL_VECTORS * target.lanes))
    most = tiles if columns > 1 else max(1, min(tiles, room))
    sharing = threads // columns
    rounds = -(-tiles // (most * sharing))
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


def _shares_columns(work: Convolution, target: Target, size: int) -> bool:
    """Whether halves of the filters are shared out, so that no thread reads all weights.

    Each thread then transforms all tiles, which have to stay in the second cache with the products
    of a panel and the kept lines. Two threads of a Cascade Lake took 520 us instead of 600 for
    14 x 14 x 256 (decision 24), and 355 instead of 368 for 28 x 28 x 128 (decision 25).
    """
    filtering = FILTERINGS[size, work.stride]
    panel = PANEL_VECTORS * target.lanes
    group = filtering.together * filtering.span * (work.depth + panel)
    tile_bytes = 4 * (group + len(filtering.kept) * size * -(-work.filters // 2))
    weights = work.weights(size)
    near = tile_bytes * _winograd_tiles(work, size) <= target.l2_bytes * 13 // 16
    return weights > 2 * target.l2_bytes and near

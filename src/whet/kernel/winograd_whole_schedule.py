"""Schedules of Winograd convolutions whose tiles are whole images."""

from __future__ import annotations

from math import gcd

from whet.kernel.schedule import LINE_BYTES, LOADS_PER_CYCLE, UNROLL
from whet.kernel.spec import Tile
from whet.kernel.winograd_filtering import TAPS
from whet.kernel.winograd_work import Convolution
from whet.target import Target

BYTES_PER_CYCLE = 8
"""Of taps from memory, which are read in order; a Cascade Lake has 9.6 with nothing else to do."""
TRANSFORM_CYCLES = 5.0
"""Of a vector and position."""
MOST_IMAGES = 4
"""Of more images, tiles of all share transformed weights often enough.

On 7 pixels of 512 channels 2 images take 0.66 of the time, 3 take 0.96, 4 take 0.93; of 128, 1.05.
"""
BLOCK_VECTORS = 2
"""Vectors of channels whose columns of taps wait in scratch.

With 1 or 4 it takes 1.00 of the time (14 pixels of 256 channels on a Zen 4).
"""
MORE_THAN_SUMS = 7
"""Registers beside the sums of a line: what its weights are made of, and one of them."""


def fits_whole(work: Convolution, target: Target, size: int) -> bool:
    """Tell whether few square images can be single tiles: sums of a step stay in registers.

    Multiply-adds that take a lane of a register would need the inputs in another order.
    """
    filtering = work.filtering(size)
    tiles = len(filtering.tiles)
    sums = tiles * (tiles if filtering.wide else filtering.span)
    return (
        work.rows == work.cols == size
        and work.images <= MOST_IMAGES
        and work.depth % target.lanes == 0
        and sums <= target.registers - MORE_THAN_SUMS
        and (not filtering.wide or target.vector_bytes == LINE_BYTES)
        and not target.lane_fma
    )


def whole_cycles(work: Convolution, target: Target, threads: int, size: int) -> float:
    """Estimate the cycles of a convolution: every multiply-add loads its scalar.

    A line's taps are loaded where they are transformed in registers; else each weight is made of
    three columns. The image is transformed by each thread that has some of its filters.
    """
    filtering = work.filtering(size)
    positions = filtering.span**2
    read = 3 * sum(sum(1 for factor in line if factor) for line in filtering.filters)
    taps = 3 * filtering.kinds**2 if filtering.wide else read
    chunks = work.images * _blocks(work, threads) // threads
    panels = chunks * whole_tile(work, target, threads, size).panels
    products = panels * work.depth * (positions + taps) / LOADS_PER_CYCLE
    transformed = chunks * work.depth / target.lanes + panels
    cycles = products + transformed * positions * TRANSFORM_CYCLES
    return max(cycles, work.weights(size) / BYTES_PER_CYCLE)


def whole_tile(work: Convolution, target: Target, threads: int, size: int) -> Tile:
    """Return a schedule in which every thread has as many panels of filters, or as many images.

    Taps that the second cache does not hold are fetched while those before are multiplied.
    """
    filtering = work.filtering(size)
    panels = -(-work.filters // target.lanes)
    block = _block(work, target)
    steps = (filtering.kinds**2 if filtering.wide else filtering.kinds) * block // UNROLL
    lines = TAPS * block * target.vector_bytes // LINE_BYTES
    far = work.weights(size) > target.l2_bytes
    return Tile(
        rows=1,
        vectors=1,
        unroll=UNROLL,
        row_items=1,
        panels=-(-panels // _blocks(work, threads)),
        prefetch=-(-lines // steps) if far else 0,
        block=block,
    )


def _block(work: Convolution, target: Target) -> int:
    """Return the channels whose taps are near while they are multiplied."""
    wide = work.filtering(work.rows).wide
    block = (BLOCK_VECTORS if wide else 1) * target.lanes
    return block if work.depth % block == 0 else target.lanes


def _blocks(work: Convolution, threads: int) -> int:
    """Return into how many parts the filters are cut, so that threads have as many chunks."""
    return threads // gcd(work.images, threads)

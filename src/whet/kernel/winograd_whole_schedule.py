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
MORE_THAN_SUMS = 7
"""Registers beside the sums of a line: what its weights are made of, and one of them."""


def fits_whole(work: Convolution, target: Target, size: int) -> bool:
    """Tell whether few square images can be single tiles: a line's sums stay in registers.

    Multiply-adds that take a lane of a register would need the inputs in another order.
    """
    filtering = work.filtering(size)
    lines = max(len(filtering.products_of(kind)) for kind in range(filtering.kinds))
    room = target.registers - MORE_THAN_SUMS
    return (
        work.rows == work.cols == size
        and work.images <= MOST_IMAGES
        and work.depth % target.lanes == 0
        and lines * filtering.span <= room
        and not target.lane_fma
    )


def whole_cycles(work: Convolution, target: Target, threads: int, size: int) -> float:
    """Estimate the cycles of a convolution: every multiply-add loads its scalar, and its line taps.

    The image is transformed by each thread that has some of its filters.
    """
    filtering = work.filtering(size)
    positions = filtering.span**2
    read = 3 * sum(sum(1 for factor in line if factor) for line in filtering.filters)
    chunks = work.images * _blocks(work, threads) // threads
    panels = chunks * whole_tile(work, target, threads, size).panels
    products = panels * work.depth * (positions + read) / LOADS_PER_CYCLE
    transformed = chunks * work.depth / target.lanes + panels
    cycles = products + transformed * positions * TRANSFORM_CYCLES
    return max(cycles, work.weights(size) / BYTES_PER_CYCLE)


def whole_tile(work: Convolution, target: Target, threads: int, size: int) -> Tile:
    """Return a schedule in which every thread has as many panels of filters, or as many images.

    Taps that the second cache does not hold are fetched while those before are multiplied.
    """
    panels = -(-work.filters // target.lanes)
    blocks = _blocks(work, threads)
    steps = work.filtering(size).kinds * target.lanes // UNROLL
    lines = TAPS * target.lanes * target.vector_bytes // LINE_BYTES
    far = work.weights(size) > target.l2_bytes
    return Tile(1, 1, UNROLL, 1, -(-panels // blocks), -(-lines // steps) if far else 0)


def _blocks(work: Convolution, threads: int) -> int:
    """Return into how many parts the filters are cut, so that threads have as many chunks."""
    return threads // gcd(work.images, threads)

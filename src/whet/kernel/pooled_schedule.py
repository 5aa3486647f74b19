"""Where a product and the windows over it are one kernel, and how their work is cut."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from whet.kernel.pooled import Bands, Lines
from whet.target import Target

CHUNKS_PER_THREAD = 2
"""Chunks begin with rows that the one before made too, so that few are better."""
MOST_EXTRA = 1.08
"""What rows done twice and uneven shares of threads may cost together."""
ALIKE = 0.01
"""What wider blocks of channels may cost more: their pixels lie side by side in memory."""
MOST_CHUNKS = 8
"""Chunks of a thread up to which an image is cut."""
PART_OF_CACHE = 4
"""A band takes this part of the second cache; weights and what the product reads need the rest."""
PART_OF_IMAGE = 8
"""Nor does it take more than this part of an image, as each thread has one."""
SHALLOW = 32
"""Multiply-adds of a byte up to which rows done twice take no longer than an image that is written
and read in the second cache; what its memory takes is saved. Of floats that costs 1 % of a
MobileNetV2 and saves nothing, as its largest images are others."""
SMALLEST = 3
"""Images of this part of the second cache are written in any case."""
MOST_VECTORS = 4
"""Vectors of channels of a block: more than three rows of them leave the first cache."""


class Image(msgspec.Struct, frozen=True):
    """What a product makes for windows.

    Attributes:
        count: images.
        rows: rows of an image.
        columns: pixels of a row.
        windows: rows of windows.
        channels: values of a pixel.
        panel: channels of a panel of the product.
        depth: multiply-adds of a value.
        element: bytes of a value.
    """

    count: int
    rows: int
    columns: int
    windows: int
    channels: int
    panel: int
    depth: int
    element: int

    @property
    def bytes(self) -> int:
        """Bytes of all images."""
        return self.count * self.rows * self.columns * self.channels * self.element


def choose_bands(image: Image, lines: Lines, target: Target, threads: int) -> Bands | None:
    """Return how the work is cut, ``None`` where the parts are better apart.

    Args:
        image: what the product makes.
        lines: image rows under a row of windows.
        target: processor.
        threads: threads that share out the chunks.
    """
    shallow = image.element == 1 and image.depth <= SHALLOW
    if image.bytes <= target.l2_bytes // (SMALLEST if shallow else 1):
        return None
    costs = [(_cost(image, lines, b, threads), b) for b in _ways(image, lines, target, threads)]
    least = min((cost for cost, _ in costs), default=MOST_EXTRA)
    good = (b for cost, b in costs if cost <= min(least + ALIKE, MOST_EXTRA))
    return next(good, None)


def _ways(image: Image, lines: Lines, target: Target, threads: int) -> Iterator[Bands]:
    """Give the ways in which bands fit the cache and threads have enough chunks, largest first."""
    wanted = CHUNKS_PER_THREAD * threads if threads > 1 else 1
    most = min(target.l2_bytes // PART_OF_CACHE, image.bytes // image.count // PART_OF_IMAGE)
    for channels in _blocks(image, target):
        line = image.columns * channels * image.element
        room = (most // line - lines.shared) // lines.step
        several = image.count * -(-image.channels // channels)
        for parts in range(-(-wanted // several), max(MOST_CHUNKS * threads // several, 1) + 1):
            rows = -(-image.windows // parts)
            height = min(rows, room)
            if height >= 1 and lines.shared <= lines.step * height:
                yield Bands(height, rows, channels)


def _blocks(image: Image, target: Target) -> Iterator[int]:
    """Give the channels that a chunk may have: all, or a few whole panels."""
    yield image.channels
    for channels in range(MOST_VECTORS * target.lanes, 0, -1):
        if channels % image.panel == 0 and channels < image.channels:
            yield channels


def _cost(image: Image, lines: Lines, bands: Bands, threads: int) -> float:
    """Return the time of the thread that has most, over an even share with no row done twice."""
    spent = [0.0] * threads
    for _ in range(image.count):
        for row in range(0, image.windows, bands.rows):
            rows = min(bands.rows, image.windows - row) + lines.shared / lines.step
            for channel in range(0, image.channels, bands.channels):
                free = spent.index(min(spent))
                spent[free] += rows * min(bands.channels, image.channels - channel)
    return max(spent) * threads / (image.count * image.windows * image.channels)

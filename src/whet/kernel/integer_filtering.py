"""Winograd's minimal filtering of 8-bit integers, without any rounding.

``B'`` and, once each of its lines is multiplied by a number of its own, ``G`` consist of integers,
so that pixels and taps become 16-bit integers and their products 32-bit ones. What the lines of
``G`` were multiplied by is left to ``A'``: lines of it become integers if they are multiplied by
``3 * 2**s``. Sums are those of integers modulo ``2**32``, where 9 has an inverse: a result is right
whatever overflowed before, as long as it lies within 26 bits itself (decision 35).
"""

from __future__ import annotations

import msgspec
import numpy as np

from whet.kernel.winograd_sides import tile_products

IntegerMatrix = tuple[tuple[int, ...], ...]

TAPS: IntegerMatrix = ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (0, 0, 1), (1, -2, 4))
"""Powers of the points 0, 1, -1, 2, infinity and -2: what taps are multiplied by along a side."""
KINDS = len(TAPS)
LARGE, SMALL = 4, 3
"""Outputs of a tile along a side; the smaller one has the first five points."""
SHORT, WORD = 2, 4
"""Bytes of a transformed pixel or tap, and of a sum or a pair of transformed taps."""
DIVISOR = 3
"""What a result is multiplied by along a side, beside a power of 2."""
INVERSE = pow(DIVISOR**2, -1, 1 << 32)
"""``INVERSE * 9`` is 1 modulo 2**32."""


class TileSide(msgspec.Struct, frozen=True):
    """A side of a tile.

    Attributes:
        size: outputs.
        inputs: ``B'``, a line for each product.
        outputs: ``A'``, a line for each output, multiplied by ``3 * 2**shift``.
        shifts: the exponent of each output.
    """

    size: int
    inputs: IntegerMatrix
    outputs: IntegerMatrix
    shifts: tuple[int, ...]

    @property
    def span(self) -> int:
        """Inputs, and products."""
        return len(self.inputs)


def _tile_side(size: int) -> TileSide:
    made = tile_products(size, KINDS)
    common = SMALL + 1
    products = [*made[:common], made[-1], *made[common:-1]]
    lines = [[column[i] for _, _, column in products] for i in range(size)]
    shifts = [_shift(line) for line in lines]
    return TileSide(
        size,
        tuple(tuple(round(factor) for factor in inputs) for _, inputs, _ in products),
        tuple(
            tuple(round(factor * (DIVISOR << shift)) for factor in line)
            for line, shift in zip(lines, shifts, strict=True)
        ),
        tuple(shifts),
    )


def _shift(line: list[float]) -> int:
    """Return the least ``s`` such that ``3 * 2**s`` times a line consists of integers."""
    shift = 1
    while any(
        abs((scaled := factor * (DIVISOR << shift)) - round(scaled)) > 1e-6 for factor in line
    ):
        shift += 1
    return shift


SIDES = {size: _tile_side(size) for size in (LARGE, SMALL)}
BITS = 31 - 2 * max(max(side.shifts) for side in SIDES.values())
"""Results from ``-2**BITS`` to below ``2**BITS`` are right."""


class Tiling(msgspec.Struct, frozen=True):
    """A side of an image as tiles, the large ones first."""

    large: int
    small: int

    @property
    def count(self) -> int:
        """All tiles."""
        return self.large + self.small

    @property
    def sizes(self) -> list[int]:
        """The outputs of tiles that there are."""
        return [size for size, count in ((LARGE, self.large), (SMALL, self.small)) if count]


def tiling_of(extent: int) -> Tiling | None:
    """Return the fewest tiles that are a side of an image, ``None`` for 1, 2 and 5 outputs."""
    count = -(-extent // LARGE)
    small = LARGE * count - extent
    return Tiling(count - small, small) if count > 0 and small <= count else None


def is_exact(weights: np.ndarray) -> bool:
    """Whether all sums of products of bytes and weights [M, C, 3, 3] are right."""
    wide = weights.astype(np.int64).reshape(len(weights), -1)
    most = max(
        np.maximum(wide, 0).sum(1).max(initial=0), np.maximum(-wide, 0).sum(1).max(initial=0)
    )
    return bool(255 * most < 1 << BITS)

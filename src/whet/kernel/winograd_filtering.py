"""What Winograd's minimal filtering does along one side of a tile, as matrices."""

from __future__ import annotations

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]

IN_REGISTERS = 2
"""Tiles of a side of an image whose sums stay in registers while taps are transformed there."""
SIDE = 3
"""Taps along a side of a filter."""
TAPS = SIDE**2
"""Weights of a filter of 3x3 taps."""


@dataclass(frozen=True, slots=True)
class Filtering:
    """``F(size, 3)``: ``size`` outputs of a three-tap filter, or of every other place of it.

    Attributes:
        size: outputs along one side of a tile.
        inputs: ``B'``, applied to the inputs.
        filters: ``G``, applied to the taps.
        outputs: ``A'``, applied to the products.
        weight_of: which line of ``G`` each product is made with, in ascending order.
        together: lines of a transformed tile that are computed from the same lines of pixels, more
            or less; it divides their number.
        stride: inputs from one output to the next.
        tiles: outputs of the smaller tiles of which a side of a whole image consists, the largest
            first; empty where images have several tiles of the same size.
    """

    size: int
    inputs: Matrix
    filters: Matrix
    outputs: Matrix
    weight_of: tuple[int, ...]
    together: int
    stride: int = 1
    tiles: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether a tile is an image.

        Each weight is used a few times only then, and better transformed there than read.
        """
        return bool(self.tiles)

    @property
    def wide(self) -> bool:
        """Whether an image is so many tiles wide that its sums do not stay in registers.

        Its taps are transformed into scratch then, a block of channels at a time.
        """
        return len(self.tiles) > IN_REGISTERS

    @property
    def span(self) -> int:
        """Inputs along one side of a tile, and products."""
        return len(self.inputs)

    @property
    def kinds(self) -> int:
        """Weights along one side, fewer than the products where inputs share some."""
        return len(self.filters)

    @property
    def stored(self) -> int:
        """Weights of a pair of channels in a file: transformed ones, or taps."""
        return TAPS if self.whole else self.kinds**2

    @property
    def saving(self) -> float:
        """How many products of a direct convolution each product stands for."""
        return TAPS * self.size**2 / self.span**2

    def products_of(self, kind: int) -> list[int]:
        """Return the products that are made with a weight."""
        return [k for k, weight in enumerate(self.weight_of) if weight == kind]

    @property
    def groups(self) -> list[range]:
        """The lines of a transformed tile that are done together."""
        return [range(k, k + self.together) for k in range(0, self.span, self.together)]

    @property
    def kept(self) -> range:
        """Lines of products, from the first on, that pixels of a later group are made of too."""
        later = [
            k
            for lines in self.groups
            for k in lines
            if any(factors[k] and _last(factors) >= lines.stop for factors in self.outputs)
        ]
        return range(max(later, default=-1) + 1)

    def complete(self, lines: range) -> list[int]:
        """Return the lines of pixels that are known when a group of lines is done."""
        return [i for i, factors in enumerate(self.outputs) if _last(factors) in lines]


def _last(factors: tuple[float, ...]) -> int:
    """Return the last line that a line of pixels is made of."""
    return max(k for k, factor in enumerate(factors) if factor)

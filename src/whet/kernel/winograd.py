"""The matrices of Winograd's minimal filtering for filters of three taps.

Every other output is a filter of two taps over the even inputs, ``F(2, 2)``, and one of one tap
over the odd ones: 5 products for two outputs where there are 6, two of them with the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Matrix = tuple[tuple[float, ...], ...]

_BLOCK = 800
"""Pairs of channels transformed at a time; larger products make OpenBLAS wait for its threads."""


@dataclass(frozen=True, slots=True)
class Filtering:
    """``F(size, 3)``: ``size`` outputs of a three-tap filter, or of every other place of it.

    Attributes:
        size: outputs along one side of a tile.
        inputs: ``B'``, applied to the inputs.
        filters: ``G``, applied to the taps; further inputs are multiplied by the last of them too.
        outputs: ``A'``, applied to the products.
        together: lines of a transformed tile that are computed from the same lines of pixels, more
            or less; it divides their number.
        stride: inputs from one output to the next.
    """

    size: int
    inputs: Matrix
    filters: Matrix
    outputs: Matrix
    together: int
    stride: int = 1

    @property
    def span(self) -> int:
        """Inputs along one side of a tile, and products."""
        return len(self.inputs)

    @property
    def kinds(self) -> int:
        """Weights along one side, fewer than the products where inputs share some."""
        return len(self.filters)

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


TWO = Filtering(
    2,
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    filters=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    together=1,
)

FOUR = Filtering(
    4,
    inputs=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    filters=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    outputs=(
        (1, 1, 1, 1, 1, 0),
        (0, 1, -1, 2, -2, 0),
        (0, 1, 1, 4, 4, 0),
        (0, 1, -1, 8, -8, 1),
    ),
    together=2,
)

TWO_APART = Filtering(
    2,
    inputs=(
        (1, 0, -1, 0, 0),
        (0, 0, 1, 0, 0),
        (0, 0, -1, 0, 1),
        (0, 1, 0, 0, 0),
        (0, 0, 0, 1, 0),
    ),
    filters=((1, 0, 0), (1, 0, 1), (0, 0, 1), (0, 1, 0)),
    outputs=((1, 1, 0, 1, 0), (0, 1, 1, 0, 1)),
    together=1,
    stride=2,
)

FILTERINGS = {(f.size, f.stride): f for f in (TWO, FOUR, TWO_APART)}
STRIDES = tuple(sorted({f.stride for f in FILTERINGS.values()}))


def sizes_of(stride: int) -> list[int]:
    """Return the sizes of tiles that there are for a stride."""
    return [f.size for f in FILTERINGS.values() if f.stride == stride]


def transform_weights(weights: np.ndarray, filtering: Filtering) -> np.ndarray:
    """Return ``G g G'`` of weights [M, C, 3, 3] as [positions, C, M], computed in float64.

    It is one product with the Kronecker square of ``G``, by blocks that stay in the cache.
    """
    g = np.asarray(filtering.filters, np.float64)
    both = np.kron(g, g)
    filters, depth = weights.shape[:2]
    moved = np.empty((len(both), depth, filters), np.float32)
    block = max(_BLOCK // filters, 1)
    for begin in range(0, depth, block):
        taps = weights[:, begin : begin + block].transpose(2, 3, 1, 0).astype(np.float64, order="C")
        product = both @ taps.reshape(both.shape[1], -1)
        moved[:, begin : begin + block] = product.reshape(len(both), -1, filters)
    return moved

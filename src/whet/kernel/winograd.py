"""The matrices of Winograd's minimal filtering for filters of three taps.

Every other output is a filter of two taps over the even inputs, ``F(2, 2)``, and one of one tap
over the odd ones: 5 products for two outputs where there are 6, two of them with the same weight.
"""

from __future__ import annotations

import numpy as np

from whet.kernel.winograd_filtering import Filtering
from whet.kernel.winograd_sides import WHOLE_SIDES

_BLOCK = 800
"""Pairs of channels transformed at a time; larger products make OpenBLAS wait for its threads."""

TWO = Filtering(
    2,
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    filters=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    weight_of=(0, 1, 2, 3),
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
    weight_of=(0, 1, 2, 3, 4, 5),
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
    weight_of=(0, 1, 2, 3, 3),
    together=1,
    stride=2,
)

FILTERINGS = {(f.size, f.stride): f for f in (TWO, FOUR, TWO_APART, *WHOLE_SIDES)}
STRIDES = tuple(sorted({f.stride for f in FILTERINGS.values()}))


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

"""Filtering of a whole side of a small image, by tiles of two sizes beside each other.

Seven outputs are ``F(4, 3)`` and ``F(3, 3)``: 11 products where there are 21. The points of the
smaller tile are among those of the larger one, so that both share their weights, of which there are
6. Factors of ``G`` and ``B'`` are integers, as the taps are transformed while they are multiplied;
what that leaves to divide by is done once for each output.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from whet.kernel.winograd_filtering import Filtering

POINTS = (0, 1, -1, 2, -2)
"""Where polynomials are evaluated, beside infinity; as many as a tile has outputs and one more."""
SMALL, LARGE = 5, 20
"""The shortest and the longest side."""

Product = tuple[int, list[float], list[float]]
"""The number of its weight, its line of ``B'`` and its column of ``A'``."""


def whole_side(tiles: tuple[int, ...]) -> Filtering:
    """Return the filtering of a side that consists of tiles of so many outputs.

    Products are in the order of their weights, those of which all tiles have one first.
    """
    finite = POINTS[: max(tiles) + 1]
    size = sum(tiles)
    products: list[Product] = []
    starts = [sum(tiles[:k]) for k in range(len(tiles))]
    for start, outputs in zip(starts, tiles, strict=True):
        for weight, inputs, column in tile_products(outputs, len(finite)):
            wide = [0.0] * start + inputs + [0.0] * (size - start - outputs)
            tall = [0.0] * start + column + [0.0] * (size - start - outputs)
            products.append((weight, wide, tall))
    filters = (*((1.0, float(p), float(p * p)) for p in finite), (0.0, 0.0, 1.0))
    order = _most_first([weight for weight, _, _ in products], len(filters))
    products.sort(key=lambda product: order.index(product[0]))
    return Filtering(
        size,
        inputs=tuple(tuple(inputs) for _, inputs, _ in products),
        filters=tuple(filters[weight] for weight in order),
        outputs=tuple(zip(*(column for _, _, column in products), strict=True)),
        weight_of=tuple(order.index(weight) for weight, _, _ in products),
        together=len(products),
        tiles=tiles,
    )


def _most_first(weights: list[int], count: int) -> list[int]:
    """Return the numbers of weights, those of as many products as there are tiles first."""
    return sorted(range(count), key=lambda weight: -weights.count(weight))


def tile_products(outputs: int, infinity: int) -> list[Product]:
    """Return the products of ``F(outputs, 3)``, Lagrange's interpolation transposed.

    ``infinity`` is the number of the weight at infinity.
    """
    points = POINTS[: outputs + 1]
    made: list[Product] = []
    for k, point in enumerate(points):
        others = [p for p in points if p != point]
        scale = prod(point - p for p in others)
        sign = 1 if scale > 0 else -1
        inputs = [float(sign * factor) for factor in (*_polynomial(others), 0)]
        made.append((k, inputs, [point**i / abs(scale) for i in range(outputs)]))
    last = [0.0] * (outputs - 1) + [1.0]
    return [*made, (infinity, [float(factor) for factor in _polynomial(points)], last)]


def _polynomial(roots: tuple[int, ...] | list[int]) -> list[int]:
    """Return the coefficients of the product of all ``x - root``, those of low powers first."""
    found = [1]
    for root in roots:
        found = [moved - root * same for moved, same in pairwise([0, *found, 0])]
    return found


def tiles_of_side(size: int) -> tuple[int, ...]:
    """Return the outputs of the tiles of a side, as few as possible, of 4 and of 3 if there is one.

    A side of five has a tile of 2.
    """
    count = -(-size // 4)
    smaller = 4 * count - size
    return (4,) * (count - smaller) + (3,) * smaller if smaller <= count else (3, 2)


WHOLE_SIDES = tuple(whole_side(tiles_of_side(size)) for size in range(SMALL, LARGE + 1))

"""Pairs of products that share one multiplication (decision 37).

Winograd, "A new algorithm for inner product", IEEE Transactions on Computers, 1968::

    a1 * b1 + a2 * b2 = (a1 + b2) * (a2 + b1) - a1 * a2 - b1 * b2

Sums of ``a1 * a2`` belong to a row and sums of ``b1 * b2`` to a column, so that each is made once.
Where a processor adds beside its multiply-adds, two additions for a multiplication are a gain.
"""

from __future__ import annotations

import msgspec

BLOCKS = 3
"""Blocks of a group: products of the first are plain, those of the others are taken in pairs.

A group of three products then takes two multiply-adds and two additions.
"""


class Pairs(msgspec.Struct, frozen=True):
    """What a contraction reads beside its operands where products are taken in pairs.

    Rows are divided by powers of two, so that their values are as large as the weights, and columns
    that are much larger or smaller than others.

    Attributes:
        squares: parameter of what the sums of each column begin with; behind them a number that is
            not 0 where the weights are not finite, so that no products may be taken in pairs, and
            the size of the weights, as an exponent of two.
        factors: parameter of what the weights of each column were divided by.
    """

    squares: int
    factors: int


def groups_of(depth: int, lanes: int) -> int:
    """Return how many groups of three blocks of ``lanes`` depth values a depth has."""
    return depth // (BLOCKS * lanes)


def sign_of(lane: int, lanes: int) -> int:
    """Return with which sign the pairs of a lane of each block are taken: half of them with each.

    With a minus a pair is ``(b2 - a1) * (b1 - a2)`` less. Where all values are positive, sums of
    ``a1 * a2`` would be much larger than what is left of them, and its error with them.
    """
    return 1 if lane < lanes // 2 else -1

"""Attention whose products are of 8-bit integers, as quantised models have it.

Queries are unsigned, keys and values signed; sums of both products are 32-bit integers that wrap.
Between them the softmax is computed in floats, and rounded to codes when its sum is known.
"""

from __future__ import annotations

import msgspec

from whet.kernel.expr import Expr

SHARE = "share"
"""A probability, as the expression that rounds it reads it."""

MASS = "mass"
"""The sum of a row's codes, as the epilogue reads it."""

QUAD_WORDS = 4
"""Values of 8 bits in a word."""


class IntegerAttention(msgspec.Struct, frozen=True):
    """What attention on integers needs beside what all have.

    Attributes:
        share: the code that a probability, ``Var("share")``, is multiplied as, of uint8.
        flips: whether the highest bits of queries, keys and values are flipped, which makes signed
            queries unsigned and 128 more, unsigned keys and values signed and 128 less.
    """

    share: Expr
    flips: tuple[bool, bool, bool]

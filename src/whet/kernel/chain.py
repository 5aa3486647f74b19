"""Chains: contractions over the same rows as one kernel, done block of rows by block of rows.

What one contraction writes of a block the next one reads while it is near, and what nobody else
reads is not written to memory at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from whet.index import Axis, Poly, as_poly, var

if TYPE_CHECKING:
    from whet.kernel.spec import Contraction, Param

CROWDING_BYTES = 2048
"""Rows so far apart share sets of the first cache; a line between them parts them (decision 15)."""
LINE = 16
"""Elements of a cache line, of four bytes each."""


class Inner(msgspec.Struct, frozen=True):
    """A result that only later parts of a chain read: a block of its rows lies in scratch.

    Attributes:
        dtype: element type.
        width: elements of a row.
    """

    dtype: str
    width: int

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        crowded = self.width * 4 % CROWDING_BYTES == 0
        return self.width + (LINE if crowded else -self.width % LINE)


class Chain(msgspec.Struct, frozen=True):
    """Contractions over the same rows, each of which reads what those before it made of its rows.

    Attributes:
        params: pointer parameters.
        inner: results that stay in the chain; parts number them on from ``params``, and address
            them as ``stride * (flat outer and row) + column``.
        parts: the contractions, in order; ``outer`` and ``row`` are the same in all.
        rows: rows of a block.
    """

    params: tuple[Param, ...]
    inner: tuple[Inner, ...]
    parts: tuple[Contraction, ...]
    rows: int


def inner_row(outer: Sequence[Axis], row: Axis) -> Poly:
    """Return the number of a row among the rows of all points of the outer axes."""
    flat = as_poly(0)
    for axis in (*outer, row):
        flat = flat * axis.extent + var(axis)
    return flat

"""What a loop collects, trip by trip, as long as there is memory for it."""

from __future__ import annotations

from collections.abc import Sequence

from whet.errors import ResourceError
from whet.limits import machine_bytes
from whet.runtime.arrays import Array

_ARRAY_BYTES = 400
"""What an array takes beside its elements."""

_LOOK_AFTER_BYTES = 1 << 28
"""Less than this is collected without a look at the machine."""


class Piles:
    """Arrays that a loop collects, a pile for each of its outputs.

    Args:
        count: of the piles.
        where: the loop.

    Attributes:
        piles: the arrays.
        element_bytes: what they hold, and what they take again once they are stacked.
    """

    def __init__(self, count: int, where: str) -> None:
        self.piles: list[list[Array]] = [[] for _ in range(count)]
        self._where = where
        self._bytes, self._trips, self._most = 0, 0, _LOOK_AFTER_BYTES
        self.element_bytes = 0

    def add(self, values: Sequence[Array]) -> None:
        """Put an array on each pile.

        Raises:
            ResourceError: the piles, and the arrays that they become, take three quarters of what
                the machine or the container has.
        """
        self._trips += 1
        for pile, value in zip(self.piles, values, strict=True):
            pile.append(value)
            self.element_bytes += value.nbytes
            self._bytes += 2 * value.nbytes + _ARRAY_BYTES
        if self._bytes > self._most:
            self._most = machine_bytes() * 3 // 4
            if self._bytes > self._most:
                raise ResourceError(
                    f"what {self._trips} trips of a loop collect needs {self._bytes} bytes, "
                    f"more than the {self._most} that it may take here",
                    where=self._where,
                    hint="let it make fewer trips, or collect less",
                )

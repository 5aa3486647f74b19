"""Rows of positions in memory: what sorts and filters write, and read while they work."""

from __future__ import annotations

import msgspec

from whet.codegen.writing.builder import I64, Builder, Value, i64
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Axis, Poly
from whet.kernel.expr import Const, Read
from whet.kernel.sort import ABSENT
from whet.kernel.spec import Store


class Positions(msgspec.Struct, frozen=True):
    """The positions of one row, by rank."""

    frame: Frame
    rank: Axis
    param: int
    address: Poly

    @property
    def b(self) -> Builder:
        """The builder that instructions go to."""
        return self.frame.b

    @property
    def capacity(self) -> Value:
        """How many there are."""
        return self.frame.scalar_index(self.rank.extent)

    def get(self, rank: Value) -> Value:
        """Load a position."""
        return self.b.load(I64, self._pointer(rank))

    def set(self, rank: Value, position: Value) -> None:
        """Store a position."""
        self.b.store(position, self._pointer(rank))

    def clear(self, first: Value) -> None:
        """Mark all positions from a rank on as absent."""
        with self.b.loop(first, self.capacity, hint="absent") as rank:
            self.set(rank, i64(ABSENT))

    def _pointer(self, rank: Value) -> Value:
        inner = self.frame.bind(self.rank, rank)
        return Point(inner).pointer(Read(self.param, self.address, "int64"))


def fill_of(param: int, address: Poly) -> Store:
    """Return the store that tells which memory a row of positions needs."""
    return Store(param, address, Const(ABSENT, "int64"))

"""Matrices of integers with scales, as quantised checkpoint folders hold them.

A weight is ``scale * (code - zero)``; scale and zero belong to a column of the matrix and a group
of its depth. Where a format of ``whet.kernel.block_formats`` holds exactly the same numbers, the
matrix is given in its bytes: ``Q4_0`` where ``code - zero`` lies between -8 and 7, ``Q8_0`` where
it is a signed byte; everything else in floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from whet.kernel.block_formats import GROUP
from whet.llm.architecture import Array
from whet.llm.checkpoints.block_grids import BlockGrid, block_bytes

LIMITS = {"Q4_0": (-8, 7), "Q8_0": (-128, 127)}
"""Formats, the one of fewest bits first, and what ``code - zero`` may be in them."""

_ZEROS = {"Q4_0": 8, "Q8_0": 128}


def unpacked(words: Array, bits: int) -> Array:
    """Return unsigned numbers of few bits from words of 32, along the last axis, the lowest first.

    Numbers may reach over from one word into the next.
    """
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data
    if bits == 4:
        return np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], -1)
    found = np.unpackbits(data, axis=-1, bitorder="little")
    count = found.shape[-1] // bits
    found = found[..., : count * bits].reshape(*data.shape[:-1], count, bits)
    return np.packbits(found, axis=-1, bitorder="little")[..., 0]


@dataclass(frozen=True)
class IntegerMatrix:
    """A matrix of integers with scales, read when it is asked for.

    Attributes:
        shape: columns and depth.
        span: smallest and largest code.
        codes: reads the codes [column, depth].
        zeros: reads the zeros [column, group], or one for all.
        scales: reads the scales [column, group], as they are stored.
        groups: the group of every place of the depth.
    """

    shape: tuple[int, int]
    span: tuple[int, int]
    codes: Callable[[], Array]
    zeros: Callable[[], Array]
    scales: Callable[[], Array]
    groups: Array

    def floats(self) -> Array:
        """Return the matrix in float32: one rounding, that of the product."""
        values = self._values()
        scales = self.scales().astype(np.float32)[:, self.groups]
        return np.asarray(values.astype(np.float32) * scales)

    @cached_property
    def format(self) -> str | None:
        """Name of the format that holds the same numbers; ``None`` for none."""
        places = self.groups[self._sorted()]
        if len(places) % GROUP or (places.reshape(-1, GROUP) != places[::GROUP, None]).any():
            return None
        scales = self.scales().astype(np.float32)
        with np.errstate(over="ignore"):
            if not np.array_equal(scales.astype(np.float16).astype(np.float32), scales):
                return None
        zeros = self.zeros().astype(np.int32)
        low, high = self.span[0] - int(zeros.max()), self.span[1] - int(zeros.min())
        fits = (name for name, (least, most) in LIMITS.items() if least <= low and high <= most)
        return next(fits, None)

    @property
    def order(self) -> Array | None:
        """Which places of the depth come one after another in ``blocks``; ``None`` for all."""
        order = self._sorted()
        return None if np.array_equal(order, np.arange(len(order))) else order

    def blocks(self) -> Array:
        """Return the matrix in bytes of its format, a row for each column."""
        name = self.format
        assert name is not None, "there is a format"
        order = self._sorted()
        places = self.groups[order]
        codes = self._values()[:, order] + _ZEROS[name]
        scale = self.scales().astype(np.float16)[:, places[::GROUP]]
        limits = LIMITS[name][0] + _ZEROS[name], LIMITS[name][1] + _ZEROS[name]
        return block_bytes(name, codes, BlockGrid(scale, scale, limits, minimums=False))

    def _values(self) -> Array:
        """Return codes less zeros."""
        zeros = self.zeros().astype(np.int16)
        spread = zeros if zeros.ndim == 0 else zeros[:, self.groups]
        return np.asarray(self.codes().astype(np.int16) - spread)

    def _sorted(self) -> Array:
        """Return the places of the depth, group by group."""
        return np.argsort(self.groups, kind="stable")

"""Floats to blocks of few bits: the grid of every 32 weights, and codes as bytes of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from whet.kernel.block_formats import FORMATS, GROUP, written_blocks
from whet.llm.architecture import Array


@dataclass(frozen=True, slots=True, eq=False)
class BlockGrid:
    """What the codes of a matrix stand for: ``scale * code + low``, one for each group.

    Attributes:
        scale: float16 [row, group].
        low: float16 [row, group] where groups have minimums; else ``-zero * scale``.
        limits: smallest and largest code.
        minimums: whether ``low`` is stored.
    """

    scale: Array
    low: Array
    limits: tuple[int, int]
    minimums: bool

    def parameters(self) -> tuple[Array, Array]:
        """Return scale and zero point of every weight [row, depth], in float64."""
        scale = np.repeat(self.scale.astype(np.float64), GROUP, axis=1)
        zero = -np.repeat(self.low.astype(np.float64), GROUP, axis=1) / scale
        return scale, zero

    def nearest(self, weights: Array) -> Array:
        """Return each weight's nearest code."""
        scale, zero = self.parameters()
        return np.asarray(np.clip(np.rint(weights / scale + zero), *self.limits))

    def floats(self, codes: Array) -> Array:
        """Return what codes stand for, in float32."""
        scale, zero = self.parameters()
        return np.asarray(((codes - zero) * scale).astype(np.float32))


CODES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"Q8_0": (1, 255), "Q4_0": (0, 15), "Q4_1": (0, 15)}
)
"""Formats that floats are brought into, with their codes."""

_TINY = np.float32(6e-8)
"""The least float16 above 0."""


def block_grid(name: str, weights: Array) -> BlockGrid:
    """Return the grid of a format that covers the weights of every group."""
    limits = CODES[name]
    groups = weights.astype(np.float32).reshape(len(weights), -1, GROUP)
    low, high = groups.min(axis=2), groups.max(axis=2)
    if FORMATS[name].minimums:
        low = np.minimum(low, 0)
        scale = _half((np.maximum(high, 0) - low) / np.float32(limits[1]))
        return BlockGrid(scale, low.astype(np.float16), limits, minimums=True)
    far = np.where(-low > high, low, high)
    zero = np.float32(FORMATS[name].zero)
    steps = -zero if limits[0] == 0 else zero - limits[0]
    scale = _half(far / steps) if limits[0] == 0 else _half(np.abs(far) / steps)
    return BlockGrid(scale, -zero * scale.astype(np.float32), limits, minimums=False)


def _half(scale: Array) -> Array:
    """Return scales as float16, none of them 0."""
    return np.where(np.abs(scale) < _TINY, _TINY, scale).astype(np.float16)


def block_bytes(name: str, codes: Array, grid: BlockGrid) -> Array:
    """Return codes [row, depth] as rows of bytes, as a GGUF file holds them."""
    return written_blocks(FORMATS[name], codes, grid.scale, grid.low if grid.minimums else None)

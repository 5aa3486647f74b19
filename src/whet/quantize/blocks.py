"""Grids of weights in blocks along the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class BlockGrid:
    """One grid for each block of rows of each column of a (depth, columns) matrix.

    Attributes:
        scale: (blocks, columns), float32.
        zero: the number that stands for 0, signed.
        bits: of a number.
        block: rows of a block; the last one may have fewer.
        symmetric: whether all zero points are 0.
    """

    scale: Array
    zero: Array
    bits: int
    block: int
    symmetric: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest number."""
        high = 2 ** (self.bits - 1) - 1
        return (-high, high) if self.symmetric else (-high - 1, high)

    def spread(self, parameter: Array, depth: int) -> Array:
        """Return scale or zero point for every row."""
        return np.repeat(parameter, self.block, axis=0)[:depth]


def block_grid(matrix: Array, bits: int, block: int, *, symmetric: bool) -> BlockGrid:
    """Return the grid that covers the weights of every block."""
    depth, columns = matrix.shape
    blocks = -(-depth // block)
    padded = np.zeros((blocks * block, columns), np.float32)
    padded[:depth] = matrix
    parts = padded.reshape(blocks, block, columns)
    low, high = np.minimum(parts.min(axis=1), 0), np.maximum(parts.max(axis=1), 0)
    last = 2 ** (bits - 1) - 1
    if symmetric:
        scale, zero = np.maximum(-low, high) / last, np.zeros(low.shape, np.int32)
    else:
        scale, zero = (high - low) / (2 * last + 1), np.zeros(low.shape, np.int32)
    scale = np.where(scale < np.finfo(np.float32).tiny, 1, scale).astype(np.float32)
    if not symmetric:
        zero = np.clip(np.rint(-last - 1 - low / scale), -last - 1, last).astype(np.int32)
    return BlockGrid(scale, zero, bits, block, symmetric)


def quantize_blocks(matrix: Array, grid: BlockGrid) -> Array:
    """Return the nearest numbers, int32."""
    scale, zero = (grid.spread(a, len(matrix)) for a in (grid.scale, grid.zero))
    made: Array = np.clip(np.rint(matrix / scale) + zero, *grid.limits).astype(np.int32)
    return made


def dequantize_blocks(numbers: Array, grid: BlockGrid) -> Array:
    """Return what numbers stand for, float32."""
    scale, zero = (grid.spread(a, len(numbers)) for a in (grid.scale, grid.zero))
    values: Array = (numbers - zero).astype(np.float32) * scale
    return values

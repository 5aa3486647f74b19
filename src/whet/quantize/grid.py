"""The grids that values are rounded to: scale, zero point, and what both make of numbers.

``q = clip(round(x / scale) + zero)`` and ``x ≈ (q - zero) · scale``, as ONNX defines QuantizeLinear
and DequantizeLinear; ties go to the even number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

LIMITS: dict[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
}
"""Smallest and largest number of each quantised type."""

_TYPES: dict[str, Any] = {"int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A uniform grid.

    Attributes:
        scale: distance of neighbours, float32; one number, or one for each channel.
        zero: the whole number that stands for 0, of the same shape.
        dtype: the quantised type.
        axis: axis of the channels; ``None`` for one grid for all.
    """

    scale: Array
    zero: Array
    dtype: str
    axis: int | None = None

    def spread(self, parameter: Array, rank: int) -> Array:
        """Return scale or zero point in a shape that broadcasts against an array of some rank."""
        if self.axis is None:
            return parameter
        return parameter.reshape([-1 if k == self.axis else 1 for k in range(rank)])


def storage_type(dtype: str) -> Any:
    """Return the NumPy type that holds a quantised type."""
    return _TYPES.get(dtype) or np.dtype(dtype)


def scale_bounds(dtype: str, *, symmetric: bool) -> tuple[int, int]:
    """Return the first and last number in use; symmetric grids leave the lowest signed one out."""
    low, high = LIMITS[dtype]
    return (-high, high) if symmetric and low < 0 else (low, high)


def grid_of_range(low: float, high: float, dtype: str, *, symmetric: bool) -> Grid:
    """Return the grid that covers a range; 0 is always on it.

    A range that is 0 alone gets the scale 1: every value of it is exact.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    first, last = scale_bounds(dtype, symmetric=symmetric)
    if symmetric:
        middle = 0 if first < 0 else (last + 1) // 2
        scale = max(-low, high) / (last - middle)
        zero = middle
    else:
        scale = (high - low) / (last - first)
        zero = 0
    if scale < _SMALLEST_SCALE:
        scale = 1.0
    scale = float(np.float32(scale))
    if not symmetric:
        zero = int(np.clip(np.rint(first - low / scale), first, last))
    return Grid(np.asarray(scale, np.float32), np.asarray(zero, np.int32), dtype)


def grid_of_limits(low: Array, high: Array, dtype: str, *, symmetric: bool, axis: int) -> Grid:
    """Return one grid for each channel from its range."""
    made = [grid_of_range(a, b, dtype, symmetric=symmetric) for a, b in zip(low, high, strict=True)]
    scale = np.array([g.scale for g in made], np.float32)
    return Grid(scale, np.array([g.zero for g in made], np.int32), dtype, axis)


def grid_of_weights(
    weights: Array, dtype: str, *, axis: int | None, symmetric: bool, search: bool = False
) -> Grid:
    """Return the grid of an array of weights.

    Args:
        weights: the weights.
        dtype: their quantised type.
        axis: axis of output channels, each with a grid of its own; ``None`` for one grid.
        symmetric: whether the zero point is 0.
        search: whether the range is narrowed where that lowers the mean squared error.
    """
    moved = weights.reshape(1, -1) if axis is None else _rows(weights, axis)
    low = moved.min(axis=1, initial=0.0)
    high = moved.max(axis=1, initial=0.0)
    if search:
        low, high = _narrowed(moved, low, high, (dtype, symmetric))
    if axis is None:
        return grid_of_range(low[0], high[0], dtype, symmetric=symmetric)
    return grid_of_limits(low, high, dtype, symmetric=symmetric, axis=axis)


def _rows(weights: Array, axis: int) -> Array:
    moved = np.moveaxis(weights, axis, 0)
    return moved.reshape(moved.shape[0], int(np.prod(moved.shape[1:])))


def _narrowed(rows: Array, low: Array, high: Array, kind: tuple[str, bool]) -> tuple[Array, Array]:
    """Return the ranges, shrunk by the factor that costs each row the least squared error."""
    dtype, symmetric = kind
    best = np.full(len(rows), np.inf)
    chosen = np.ones(len(rows))
    for factor in np.arange(1.0, 0.39, -0.02):
        grid = grid_of_limits(low * factor, high * factor, dtype, symmetric=symmetric, axis=0)
        error = np.square(rounded(rows, grid).astype(np.float64) - rows).sum(axis=1)
        better = error < best
        best[better], chosen[better] = error[better], factor
    return low * chosen, high * chosen


def quantize(values: Array, grid: Grid) -> Array:
    """Return the numbers on the grid nearest to values, in the quantised type."""
    low, high = LIMITS[grid.dtype]
    if grid.dtype.startswith("int") and not np.any(grid.zero):
        low = -high  # as symmetric grids are made
    scale = grid.spread(grid.scale, values.ndim)
    zero = grid.spread(grid.zero, values.ndim)
    whole = np.rint(values.astype(np.float32) / scale).astype(np.float64) + zero
    made: Array = np.clip(whole, low, high).astype(np.int32).astype(storage_type(grid.dtype))
    return made


def dequantize(numbers: Array, grid: Grid) -> Array:
    """Return the values that numbers on the grid stand for, float32."""
    zero = grid.spread(grid.zero, numbers.ndim)
    difference = numbers.astype(np.int32) - zero
    values: Array = difference.astype(np.float32) * grid.spread(grid.scale, numbers.ndim)
    return values


def rounded(values: Array, grid: Grid) -> Array:
    """Return values as the grid can express them, float32."""
    return dequantize(quantize(values, grid), grid)

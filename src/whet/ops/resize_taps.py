"""Where resizing samples: indices and weights of the taps of every output position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Sampling(msgspec.Struct, frozen=True):
    """How one dimension is resized.

    Attributes:
        length: elements before.
        count: elements after.
        scale: ratio of the two, as given; ``count`` may be rounded.
        coordinates: ONNX's coordinate transformation mode.
        region: first and last normalised coordinate that is sampled.
    """

    length: int
    count: int
    scale: float
    coordinates: str
    region: tuple[float, float] = (0.0, 1.0)

    def positions(self) -> Array:
        """Return the coordinate in the input of every output position.

        Raises:
            KeyError: the coordinate transformation mode is unknown.
        """
        return np.asarray(COORDINATES[self.coordinates](self, np.arange(self.count, dtype=float)))


def _half_pixel(s: Sampling, y: Array) -> Array:
    return np.asarray((y + 0.5) / s.scale - 0.5)


def _half_pixel_symmetric(s: Sampling, y: Array) -> Array:
    adjustment = s.count / (s.scale * s.length)
    return s.length / 2 * (1 - adjustment) + _half_pixel(s, y)


def _pytorch_half_pixel(s: Sampling, y: Array) -> Array:
    return _half_pixel(s, y) if s.scale * s.length != 1 else np.full_like(y, -0.5)


def _align_corners(s: Sampling, y: Array) -> Array:
    width = s.scale * s.length
    return y * (s.length - 1) / (width - 1) if width != 1 else np.zeros_like(y)


def _asymmetric(s: Sampling, y: Array) -> Array:
    return y / s.scale


def _crop_and_resize(s: Sampling, y: Array) -> Array:
    start, end = s.region
    width, span = s.scale * s.length, (end - start) * (s.length - 1)
    inner = np.full_like(y, span / 2) if width == 1 else y * span / (width - 1)
    return inner + start * (s.length - 1)


COORDINATES: dict[str, Callable[[Sampling, Array], Array]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop_and_resize,
}

ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest(sampling: Sampling, rounding: str) -> Array:
    """Return the index that every output position copies."""
    index = ROUNDINGS[rounding](sampling.positions())
    return np.clip(index, 0, sampling.length - 1).astype(np.int64)


def _linear(distance: Array) -> Array:
    return np.asarray(np.clip(1 - np.abs(distance), 0, 1))


def cubic_filter(a: float) -> Callable[[Array], Array]:
    """Return Keys' cubic convolution kernel with coefficient ``a``."""

    def weight(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.asarray(np.where(d <= 1, near, np.where(d < 2, far, 0.0)))

    return weight


def interpolation(
    sampling: Sampling, cubic: float | None, *, antialias: bool, inside: bool
) -> tuple[Array, Array]:
    """Return indices and weights, ``[count, taps]``, of linear or cubic interpolation.

    Taps stand around ``base = ceil(x) - 1``. Against aliasing the filter is stretched by the
    inverse of the scale. Indices outside of the input repeat its border, or with ``inside`` weigh
    nothing.
    """
    shrink = min(sampling.scale, 1.0) if antialias else 1.0
    reach, weigh = (1, _linear) if cubic is None else (2, cubic_filter(cubic))
    x = sampling.positions()
    first = int(np.floor(-reach / shrink) + 1)
    base = np.ceil(x) - 1
    index = base[:, None] + np.arange(first, 2 - first)
    weight = weigh((index - x[:, None]) * shrink)
    outside = (index < 0) | (index >= sampling.length)
    if inside:
        weight = np.where(outside, 0.0, weight)
    if inside or antialias:
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1.0, total)
    return np.clip(index, 0, sampling.length - 1).astype(np.int64), weight

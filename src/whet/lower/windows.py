"""How windows of 3x3 taps go along an image, and whether just its edges are guarded."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from whet.index import Axis, Poly, var
from whet.kernel.expr import Load, Within
from whet.kernel.tensor import Product

TAPS_OF_SIDE = 3


class Window(msgspec.Struct, frozen=True):
    """Windows along a dimension of what is read: from ``stride * row - pad`` on.

    Attributes:
        dimension: of the tensor.
        row: the axis of the results.
        index: where a tap is.
        extent: elements that there are.
        stride: elements from one window to the next.
        pad: elements in front of the image that the first window reaches.
    """

    dimension: int
    row: Axis
    index: Poly
    extent: Poly
    stride: int
    pad: int

    @property
    def condition(self) -> Within:
        """Where a tap is inside the image."""
        return Within(self.index, self.extent)

    @property
    def stays_inside(self) -> bool:
        """Whether no window reaches outside."""
        last = (self.row.extent - 1) * self.stride + TAPS_OF_SIDE - 1 - self.pad
        known, size = last.constant, self.extent.constant
        return self.pad <= 0 and known is not None and size is not None and known < size


def windows_of(
    anchor: Product, load: Load, conditions: Iterable[Within], strides: Iterable[int]
) -> tuple[Window, Window] | None:
    """Return the windows down and across an image, whatever the order of its dimensions is.

    Conditions must be those that leave the image: a part of a larger one has edges of its own,
    behind which there is something else than zeros.
    """
    for stride in strides:
        pair = list(zip(anchor.rows[1:], anchor.taps, strict=True))
        found = [_window(load, var(row) * stride + var(tap), row, stride) for row, tap in pair]
        down, across = found
        if down is not None and across is not None:
            guarded = _guarded({*conditions}, (down, across))
            return (down, across) if guarded else None
    return None


def _window(load: Load, place: Poly, row: Axis, stride: int) -> Window | None:
    for dimension, index in enumerate(load.index):
        pad = (place - index).constant
        if pad is not None:
            extent = load.source.shape[dimension]
            return Window(dimension, row, index, extent, stride, pad)
    return None


def _guarded(conditions: set[Within], windows: tuple[Window, Window]) -> bool:
    """Whether conditions are those of the image, and none is missing."""
    own = {w.condition for w in windows}
    missing = (w for w in windows if w.condition not in conditions)
    return conditions <= own and all(w.stays_inside for w in missing)

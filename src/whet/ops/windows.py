"""Images and sliding windows: what convolution and pooling share."""

from __future__ import annotations

import msgspec

from whet.index import ZERO, IndexLike, Poly, as_poly, ceil_div
from whet.ops.node import Node
from whet.words import counted


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the storage order of images: batch, spatial dimensions, channels."""
    return (0, *range(2, rank), 1)


class Window(msgspec.Struct, frozen=True):
    """A sliding window over the spatial dimensions, one entry each.

    Attributes:
        kernel: taps.
        strides: distances of neighbouring windows.
        dilations: distances of neighbouring taps.
        before: padding in front.
        after: padding behind.
        same: whether there is a window for every stride that begins inside (``auto_pad`` SAME).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Poly, ...]
    after: tuple[Poly, ...]
    same: bool = False

    def extent(self, axis: int) -> int:
        """Return how many input elements one window spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def outputs(self, axis: int, length: Poly) -> Poly:
        """Return the number of positions along an axis, rounded down."""
        if self.same:
            return ceil_div(length, self.strides[axis])
        room = length + (self.before[axis] + self.after[axis] - self.extent(axis))
        return room // self.strides[axis] + 1

    def position(self, axis: int, output: Poly, tap: Poly) -> Poly:
        """Return the input index that a tap reads; outside the input it means padding."""
        return output * self.strides[axis] + tap * self.dilations[axis] - self.before[axis]


def window_of(node: Node, kernel: tuple[int, ...], lengths: tuple[Poly, ...]) -> Window:
    """Read strides, dilations, pads and auto_pad of a node.

    Raises:
        ShapeError: an attribute has the wrong length, or a value that means nothing.
    """
    rank = len(kernel)
    strides = _sizes(node, "strides", rank)
    dilations = _sizes(node, "dilations", rank)
    pads = tuple(node.attribute("pads") or (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        raise node.error(f"pads has {counted(len(pads), 'entry', 'entries')}, needs {2 * rank}")
    auto = node.attribute("auto_pad", "NOTSET")
    before: tuple[IndexLike, ...] = pads[:rank]
    after: tuple[IndexLike, ...] = pads[rank:]
    same = auto in ("SAME_UPPER", "SAME_LOWER")
    if auto == "VALID":
        before = after = (0,) * rank
    elif same:
        extents = [(kernel[k] - 1) * dilations[k] + 1 for k in range(rank)]
        totals = [_same(n, s, e) for n, s, e in zip(lengths, strides, extents, strict=True)]
        small = tuple(total // 2 for total in totals)
        large = tuple(total - half for total, half in zip(totals, small, strict=True))
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto != "NOTSET":
        raise node.error(f"auto_pad is {auto!r}", hint="NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    borders = tuple(map(as_poly, before)), tuple(map(as_poly, after))
    return Window(kernel, strides, dilations, *borders, same)


def _sizes(node: Node, name: str, rank: int) -> tuple[int, ...]:
    values = tuple(node.attribute(name) or (1,) * rank)
    if len(values) != rank:
        raise node.error(f"{name} has {counted(len(values), 'entry', 'entries')}, needs {rank}")
    if any(v < 1 for v in values):
        raise node.error(f"{name} is {list(values)}", hint="every entry must be 1 or more")
    return values


def _same(length: Poly, stride: int, extent: int) -> Poly:
    """Return the padding with which ``ceil(length / stride)`` windows fit.

    ``max((ceil(n / s) - 1) * s + e - n, 0) = max(-n % s - (s - e), 0)``; what is beyond ``s - e``
    is counted one by one, as ``(m + s - t) // s`` is 1 where the remainder ``m`` reaches ``t``.
    """
    if length.constant is not None and length.constant < 1:
        return as_poly(max(extent - stride, 0))
    missing = -length % stride
    if extent >= stride:
        return missing + (extent - stride)
    steps = range(stride - extent + 1, stride)
    return sum(((missing + (stride - t)) // stride for t in steps), ZERO)

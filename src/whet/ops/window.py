"""Sliding windows over images: sizes, strides, dilations, paddings, for pooling and convolution."""

from __future__ import annotations

from dataclasses import dataclass

from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, ceil_div, var
from whet.kernel.expr import Within
from whet.ops.node import Node
from whet.ops.operand import attribute_flag


@dataclass(frozen=True, slots=True)
class Side:
    """A window along one dimension.

    Attributes:
        extent: length of the input.
        kernel: number of taps.
        stride: distance between neighbouring windows.
        dilation: distance between neighbouring taps.
        before: padding at the front.
        after: padding at the back.
        count: number of windows.
    """

    extent: Poly
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    count: Poly

    def index(self, window: Axis, tap: Axis) -> Poly:
        """Return the input position of a tap; outside of the input where it meets padding."""
        return var(window) * self.stride + var(tap) * self.dilation - self.before

    def within(self, window: Axis, tap: Axis) -> Within:
        """Return the condition that a tap does not meet padding."""
        return Within(self.index(window, tap), self.extent)


def sides(node: Node, spatial: tuple[Poly, ...], kernel: tuple[int, ...]) -> tuple[Side, ...]:
    """Return the windows of a node, one per spatial dimension.

    Raises:
        ShapeError: the attributes do not fit the shape.
        UnsupportedError: automatic padding depends on a run-time dimension.
    """
    rank = len(spatial)
    strides = _per_side(node, "strides", rank, 1)
    dilations = _per_side(node, "dilations", rank, 1)
    pads = _per_side(node, "pads", 2 * rank, 0)
    if len(kernel) != rank:
        raise node.error(f"kernel {list(kernel)} for {rank} spatial dimensions")
    return tuple(
        _side(node, spatial[k], (kernel[k], strides[k], dilations[k]), (pads[k], pads[rank + k]))
        for k in range(rank)
    )


def _per_side(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    values = node.attribute(name)
    if not values:
        return (default,) * count
    if len(values) != count:
        raise node.error(f"{name} {list(values)} should have {count} values")
    return tuple(int(v) for v in values)


def _side(
    node: Node, extent: Poly, window: tuple[int, int, int], pads: tuple[int, int]
) -> Side:
    kernel, stride, dilation = window
    if min(window) < 1:
        raise node.error(f"kernel, stride and dilation {window} must be positive")
    reach = (kernel - 1) * dilation + 1
    automatic = node.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(node, extent, (reach, stride), automatic == "SAME_UPPER")
        return Side(extent, kernel, stride, dilation, *pads, ceil_div(extent, stride))
    if automatic == "VALID":
        pads = (0, 0)
    room = extent + sum(pads) - reach
    if room.constant is not None and room.constant < 0:
        raise node.error(f"a window of {reach} does not fit {extent} with padding {pads}")
    if attribute_flag(node, "ceil_mode") and stride > 1:
        return _rounded_up(node, extent, window, pads)
    return Side(extent, kernel, stride, dilation, *pads, room // stride + 1)


def _same(node: Node, extent: Poly, window: tuple[int, int], upper: bool) -> tuple[int, int]:
    """Return the padding for as many windows as there are strides in the input."""
    reach, stride = window
    length = extent.constant
    if length is None and stride != 1:
        raise UnsupportedError(
            f"{node.op} with automatic padding of a run-time dimension and stride {stride}",
            where=node.name,
            hint="give static spatial dimensions",
        )
    total = reach - 1
    if length is not None:
        total = max(0, (-(-length // stride) - 1) * stride + reach - length)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def _rounded_up(
    node: Node, extent: Poly, window: tuple[int, int, int], pads: tuple[int, int]
) -> Side:
    """Count a last window that sticks out, unless it starts behind the input."""
    kernel, stride, dilation = window
    length = extent.constant
    if length is None:
        raise UnsupportedError(
            f"{node.op} with ceil_mode of a run-time dimension",
            where=node.name,
            hint="give static spatial dimensions",
        )
    room = length + sum(pads) - (kernel - 1) * dilation - 1
    count = -(-room // stride) + 1
    if (count - 1) * stride >= length + pads[0]:
        count -= 1
    return Side(extent, kernel, stride, dilation, *pads, as_poly(count))

"""Sliding windows: attributes shared by convolution and pooling."""

from __future__ import annotations

from dataclasses import dataclass

from whet.index import Poly
from whet.ops.node import Node


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window over the spatial dimensions, one entry each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def extent(self, axis: int) -> int:
        """Return how many input elements one window spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def outputs(self, axis: int, length: Poly) -> Poly:
        """Return the number of positions along an axis, rounded down."""
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
        raise node.error(f"pads has {len(pads)} entries, needs {2 * rank}")
    auto = node.attribute("auto_pad", "NOTSET")
    before, after = pads[:rank], pads[rank:]
    if auto == "VALID":
        before = after = (0,) * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = [
            _same(
                node,
                lengths[k],
                strides[k],
                (kernel[k] - 1) * dilations[k] + 1,
                upper=auto == "SAME_UPPER",
            )
            for k in range(rank)
        ]
        before, after = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    elif auto != "NOTSET":
        raise node.error(f"auto_pad is {auto!r}", hint="NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    return Window(kernel, strides, dilations, tuple(before), tuple(after))


def _sizes(node: Node, name: str, rank: int) -> tuple[int, ...]:
    values = tuple(node.attribute(name) or (1,) * rank)
    if len(values) != rank:
        raise node.error(f"{name} has {len(values)} entries, needs {rank}")
    if any(v < 1 for v in values):
        raise node.error(f"{name} is {list(values)}", hint="every entry must be 1 or more")
    return values


def _same(node: Node, length: Poly, stride: int, extent: int, *, upper: bool) -> tuple[int, int]:
    if length.constant is None:
        if stride != 1:
            raise node.error("auto_pad SAME with a stride needs a static size")
        total = extent - 1
    else:
        total = max((-(-length.constant // stride) - 1) * stride + extent - length.constant, 0)
    small = total // 2
    return (small, total - small) if upper else (total - small, small)

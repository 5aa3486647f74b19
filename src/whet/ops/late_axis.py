"""Operators along an axis whose number depends on data."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.kernel.tensor import Tensor
from whet.ops.late_shapes import around_axis
from whet.ops.node import Lower, Node, constant, known_values
from whet.ops.views import reshaped


def axes_from_data(node: Node) -> bool:
    """Tell whether axes, as input 1, are given by data, and the model may be cut to learn them."""
    axes = node.optional(1)
    if node.late is None or axes is None or axes.size == 0:
        return False
    return known_values(axes) is None


def with_late_axis(lower: Lower) -> Lower:
    """Return a lowering along ``input 1`` that also takes an axis which depends on data.

    The dimensions before and after the axis are joined, so that it is always the middle one.
    """

    def lowered(node: Node) -> list[Tensor]:
        if not axes_from_data(node):
            return lower(node)
        x = node.input(0)
        shape = around_axis(node, x, node.input(1))
        joined = reshaped(node, x, shape)
        middle = constant(f"{node.name}.axis", np.array(1))
        (found,) = lower(replace(node, inputs=(joined, middle, *node.inputs[2:])))
        return [reshaped(node, found, x.shape)]

    return lowered

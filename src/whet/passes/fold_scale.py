"""Folding of per-channel arithmetic into the linear operator in front of it.

``(W·x + b)·s + t`` becomes ``(s·W)·x + (s·b + t)``; subtraction and division by a constant are
the same with ``−t`` and ``1/s``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, rank, replace_nodes
from whet.graph.match import Miss
from whet.passes.linear import Array, Linear, as_linear, channel_vector, rescaled

_OPS = ("Mul", "Add", "Sub", "Div")


def fold_scale(model: ir.Model) -> int:
    """Fold every foldable Mul, Add, Sub and Div of the main graph; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type not in _OPS or node.domain != "":
            continue
        found = foldable(node)
        if isinstance(found, Miss):
            continue
        linear, scale, shift = found
        made = rescaled(linear, scale, shift, node, names)
        if isinstance(made, ir.Node):
            replace_nodes([linear.node, node], [made], [node.outputs[0]], [made.outputs[0]])
            count += 1
    return count


def foldable(node: ir.Node) -> tuple[Linear, Array, Array] | Miss:
    """Return the linear node in front, and the scale and shift of ``node``, or why not."""
    sides = (0, 1) if node.op_type in ("Mul", "Add") else (0,)
    miss = Miss("no side is linear")
    for side in sides:
        linear = as_linear(node.inputs[side])
        if isinstance(linear, Miss):
            miss = linear
            continue
        out_rank = rank(node.outputs[0])
        if out_rank is None or rank(node.inputs[side]) != out_rank:
            return Miss("the constant broadcasts the output")
        vector = channel_vector(node.inputs[1 - side], linear, out_rank)
        if isinstance(vector, Miss):
            return vector
        return _effect(node, linear, vector)
    return miss


def _effect(node: ir.Node, linear: Linear, vector: Array) -> tuple[Linear, Array, Array] | Miss:
    ones, zeros = np.ones(linear.channels), np.zeros(linear.channels)
    if node.op_type == "Mul":
        return linear, vector, zeros
    if node.op_type == "Add":
        return linear, ones, vector
    if node.op_type == "Sub":
        return linear, ones, -vector
    if not vector.all():
        return Miss("the divisor is 0 somewhere")
    return linear, 1.0 / vector, zeros

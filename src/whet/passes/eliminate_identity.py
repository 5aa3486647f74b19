"""Removal of nodes that return one of their inputs unchanged, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import bypass, constant, constant_tensor, ints, rank, scalar
from whet.graph.match import Miss


def eliminate_identity(model: ir.Model) -> int:
    """Remove copies, no-op casts and movements and arithmetic with neutral constants.

    ``x + 0.0`` stays, because it turns ``-0.0`` into ``0.0``; ``x + -0.0``, ``x - 0.0``,
    ``x * 1`` and ``x / 1`` go. Returns how many nodes were removed.
    """
    count = 0
    for node in list(model.graph):
        source = same_as(node)
        if isinstance(source, Miss):
            continue
        count += bypass(node, node.outputs[0], source)
    return count


def same_as(node: ir.Node) -> ir.Value | Miss:
    """Return the input that the first output of a node always equals, or why there is none."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return Miss(f"{node.op_type} computes something")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return Miss("another output is used")
    return rule(node)


def _always(node: ir.Node) -> ir.Value | Miss:
    return _given(node.inputs[0])


def _given(value: ir.Value | None) -> ir.Value | Miss:
    return Miss("the input is absent") if value is None else value


def _dropout(node: ir.Node) -> ir.Value | Miss:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and scalar(training) is not False:
        return Miss("Dropout may be training")
    return _always(node)


def _single(node: ir.Node) -> ir.Value | Miss:
    if len(node.inputs) != 1:
        return Miss(f"{len(node.inputs)} inputs are joined")
    return _always(node)


def _cast(node: ir.Node) -> ir.Value | Miss:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.dtype is None or source.dtype != output.dtype:
        return Miss("the element type changes")
    return source


def _same_shape(node: ir.Node) -> ir.Value | Miss:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return Miss("a shape is unknown")
    if source.shape.has_unknown_dim() or source.shape != output.shape:
        return Miss(f"the shape changes from {source.shape} to {output.shape}")
    return source


def _transpose(node: ir.Node) -> ir.Value | Miss:
    perm = node.attributes.get("perm")
    dims = rank(node.inputs[0])
    if perm is None:
        return _always(node) if dims is not None and dims < 2 else Miss("the axes are reversed")
    order = tuple(perm.as_ints())
    return _always(node) if order == tuple(range(len(order))) else Miss(f"the axes move: {order}")


def _pad(node: ir.Node) -> ir.Value | Miss:
    pads = ints(node.inputs[1])
    if pads is None or any(pads):
        return Miss("something is padded")
    return _always(node)


def _slice(node: ir.Node) -> ir.Value | Miss:
    steps = ints(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    if steps is None or any(s != 1 for s in steps):
        return Miss("a step is not 1")
    starts, ends = ints(node.inputs[1]), ints(node.inputs[2])
    largest = np.iinfo(np.int32).max
    whole = starts is not None and ends is not None and not any(starts)
    if whole and all(e >= largest for e in ends or ()):
        return _always(node)
    return _same_shape(node)


def _tile(node: ir.Node) -> ir.Value | Miss:
    repeats = ints(node.inputs[1])
    return _always(node) if repeats and set(repeats) == {1} else Miss("something is repeated")


def _clip(node: ir.Node) -> ir.Value | Miss:
    bounded = any(v is not None for v in node.inputs[1:])
    return Miss("there is a bound") if bounded else _always(node)


def _neutral(node: ir.Node, side: int, number: float) -> ir.Value | Miss:
    """Return the other input if the input at ``side`` is ``number`` everywhere."""
    value, other = node.inputs[side], node.inputs[1 - side]
    tensor = constant_tensor(value)
    if other is None or tensor is None or tensor.size == 0 or tensor.size > 1 << 20:
        return Miss("no neutral constant")
    array = constant(value)
    if array is None or not bool((array == number).all()):
        return Miss("the constant is not neutral")
    if number == 0 and not _right_zero(array, node.op_type):
        return Miss("adding +0.0 turns -0.0 into 0.0")
    own, widened = rank(other), rank(value)
    if tensor.size == 1 and own is not None and widened is not None and widened <= own:
        return other
    if other.shape is None or other.shape.has_unknown_dim() or other.shape != node.outputs[0].shape:
        return Miss("the constant broadcasts the input")
    return other


def _right_zero(array: np.ndarray[Any, Any], op_type: str) -> bool:
    if np.issubdtype(array.dtype, np.integer):
        return True
    signs = np.signbit(array.astype(np.float64))
    return bool((~signs).all()) if op_type == "Sub" else bool(signs.all())


def _add(node: ir.Node) -> ir.Value | Miss:
    first = _neutral(node, 1, 0)
    return first if isinstance(first, ir.Value) else _better(first, _neutral(node, 0, 0))


def _mul(node: ir.Node) -> ir.Value | Miss:
    first = _neutral(node, 1, 1)
    return first if isinstance(first, ir.Value) else _better(first, _neutral(node, 0, 1))


def _better(first: Miss, second: ir.Value | Miss) -> ir.Value | Miss:
    if isinstance(second, Miss) and second.why == "no neutral constant":
        return first
    return second


def _sub(node: ir.Node) -> ir.Value | Miss:
    return _neutral(node, 1, 0)


def _right_one(node: ir.Node) -> ir.Value | Miss:
    return _neutral(node, 1, 1)


_RULES: dict[str, Callable[[ir.Node], ir.Value | Miss]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Cast": _cast,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _same_shape,
    "Split": _same_shape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Tile": _tile,
    "Clip": _clip,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _right_one,
    "Pow": _right_one,
}

"""What an adapter is, and the edits that adapters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names
from whet.graph.infer import infer_node

ANY_OPSET = 1 << 30
"""As ``below`` of an adapter: it applies to every opset."""


INFERRED_FROM = 7
"""Nodes of older opsets have no shape inference of their own: it is made up for, one by one."""


class Rewriter(msgspec.Struct, frozen=True):
    """The graph that an adapter edits.

    Attributes:
        graph: the graph or sub-graph of the node.
        names: source of unused names.
        version: the opset that the node was written for.
    """

    graph: ir.Graph
    names: Names
    version: int

    def constant(self, node: ir.Node, array: np.ndarray[Any, Any], role: str) -> ir.Value:
        """Put a constant in front of ``node``; ``role`` becomes part of its name."""
        name = self.names.fresh(f"{node.name or node.outputs[0].name}_{role}")
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        made = ir.node("Constant", [], {"value": tensor}, outputs=[value], name=name)
        self.graph.insert_before(node, made)
        return value

    def before(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Put a new node in front of ``node`` and return its output."""
        name = self.names.fresh(f"{node.name or node.outputs[0].name}_{op_type}")
        value = ir.Value(name=name)
        made = ir.node(op_type, inputs, attributes, outputs=[value], name=name)
        self.graph.insert_before(node, made)
        if self.version < INFERRED_FROM:
            infer_node(made)
        return value


class Adapter(msgspec.Struct, frozen=True):
    """Rewrites one old form, in place.

    Attributes:
        op_types: the operators it is for.
        below: it applies to nodes written for an opset below this.
        apply: the rewrite; returns what makes it impossible, or ``None``.
    """

    op_types: tuple[str, ...]
    below: int
    apply: Callable[[ir.Node, Rewriter], str | None]


def take_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Remove an attribute of integers and return it, or ``None`` if it is absent."""
    attribute = node.attributes.pop(name, None)
    if attribute is None:
        return None
    if attribute.type == ir.AttributeType.INT:
        return (attribute.as_int(),)
    return tuple(attribute.as_ints())


def take_float(node: ir.Node, name: str) -> float | None:
    """Remove a float attribute and return it, or ``None`` if it is absent."""
    attribute = node.attributes.pop(name, None)
    return None if attribute is None else attribute.as_float()


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Set an input of a node, which gets absent inputs up to there if it has fewer."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def float_type(node: ir.Node) -> np.dtype[Any]:
    """Return the NumPy element type of the first input, ``float32`` if it is unknown."""
    value = node.inputs[0] if node.inputs else None
    dtype = ir.DataType.FLOAT if value is None or value.dtype is None else value.dtype
    return np.dtype(dtype.numpy())

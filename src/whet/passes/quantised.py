"""What the passes on quantised models share: QuantizeLinear and DequantizeLinear, read and made.

``DequantizeLinear(q) = (q - zero) * scale`` and ``QuantizeLinear(x) = saturate(round(x / scale) +
zero)``, with one scale for the tensor or one for each place along an axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, add_initializer, constant, make_node, rank
from whet.graph.match import Miss

Array = np.ndarray[Any, np.dtype[Any]]

Found = TypeVar("Found")

BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
SMALL = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class Linear8(msgspec.Struct, frozen=True):
    """A QuantizeLinear or DequantizeLinear with constant parameters.

    Attributes:
        node: the node.
        source: its input.
        scale: float32, of rank 0 or along ``axis``; small floats only where they were asked for.
        zero: of the same rank, as wide integers.
        axis: what a scale of rank 1 runs along, not negative.
    """

    node: ir.Node
    source: ir.Value
    scale: Array
    zero: Array
    axis: int

    @property
    def whole(self) -> bool:
        """Whether there is one scale for the tensor."""
        return self.scale.ndim == 0

    def equals(self, other: Linear8) -> bool:
        """Whether both have the same parameters."""
        same = np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)
        return same and (self.whole or self.axis == other.axis)


def as_dequantised(value: ir.Value | None, *, small: bool = False) -> Linear8 | Miss:
    """Return the DequantizeLinear behind a value, or why there is none to work with.

    Args:
        value: what may be its result.
        small: whether float16 and bfloat16 are taken too; their scales are widened.
    """
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain != "":
        return Miss(f"{value.name if value else 'an absent input'} is not dequantised")
    return _parameters(node, small=small)


def as_quantised(node: ir.Node) -> Linear8 | Miss:
    """Return a QuantizeLinear taken apart, or why it cannot be."""
    if node.op_type != "QuantizeLinear" or node.domain != "":
        return Miss(f"{node.name} is {node.op_type}")
    return _parameters(node)


def _parameters(node: ir.Node, *, small: bool = False) -> Linear8 | Miss:
    source, scale = node.inputs[0], constant(node.inputs[1])
    if small and scale is not None and node.outputs[0].dtype in SMALL:
        scale = scale.astype(np.float32)
    if source is None or scale is None or scale.dtype != np.float32:
        return Miss(f"the scale of {node.name} is no constant of float32")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(scale.shape, np.int64) if given is None else constant(given)
    if zero is None:
        return Miss(f"the zero point of {node.name} is not constant")
    block, attribute = node.attributes.get("block_size"), node.attributes.get("axis")
    if block is not None and block.as_int():
        return Miss(f"{node.name} is quantised in blocks")
    if scale.ndim > 1 or zero.shape != scale.shape:
        return Miss(f"scale and zero point of {node.name} have different shapes")
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    axis = 1 if attribute is None else attribute.as_int()
    dims = rank(source)
    if scale.ndim and dims is None:
        return Miss(f"the rank of {source.name} is unknown")
    return Linear8(node, source, scale, zero.astype(np.int64), axis % dims if dims else 0)


def rewrite_all(
    model: ir.Model,
    find: Callable[[ir.Node], Found | Miss],
    rewrite: Callable[[Found, Names], None],
    *,
    bodies: bool = False,
) -> int:
    """Rewrite every node in which something is found; return how many.

    Args:
        model: the model.
        find: looks at a node.
        rewrite: changes what was found.
        bodies: whether bodies of If, Loop and Scan are looked at too, not the main graph alone.
    """
    names = Names(model)
    count = 0
    for graph in list(model.graphs()) if bodies else [model.graph]:
        for node in list(graph):
            found = find(node)
            if not isinstance(found, Miss):
                rewrite(found, names)
                count += 1
    return count


def typed(value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    """Return a new value of an element type with the shape of another."""
    shape = None if value.shape is None else value.shape.copy()
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)


class Maker(msgspec.Struct, frozen=True):
    """Makes nodes and constants of one graph; collects the nodes in order.

    Attributes:
        graph: where constants go.
        names: unused names.
        nodes: what was made.
    """

    graph: ir.Graph
    names: Names
    nodes: list[ir.Node]

    def constant(self, array: Array, name: str) -> ir.Value:
        """Add a constant."""
        return add_initializer(self.graph, array, self.names.fresh(name))

    def node(
        self, op_type: str, inputs: list[ir.Value | None], output: ir.Value, **attributes: Any
    ) -> ir.Value:
        """Make a node with one output, which is described already."""
        self.several(op_type, inputs, [output], **attributes)
        return output

    def several(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        outputs: list[ir.Value],
        **attributes: Any,
    ) -> None:
        """Make a node with any number of outputs, which are described already."""
        name = self.names.fresh(f"{outputs[0].name}_{op_type.lower()}")
        self.nodes.append(make_node(op_type, inputs, attributes, outputs=outputs, name=name))

    def dequantised(
        self, source: ir.Value, scale: Array, output: ir.Value, zero: Array | None, axis: int
    ) -> ir.Value:
        """Make a DequantizeLinear; a zero point of 0 is left out."""
        inputs = [source, self.constant(scale.astype(np.float32), f"{output.name}_scale")]
        if zero is not None and np.any(zero):
            kind = (source.dtype or ir.DataType.UINT8).numpy()
            inputs.append(self.constant(zero.astype(kind), f"{output.name}_zero"))
        extra = {"axis": axis} if scale.ndim else {}
        return self.node("DequantizeLinear", list(inputs), output, **extra)

"""What a graph costs if every node is a kernel of its own: the yardstick of a pass."""

from __future__ import annotations

import math

import msgspec
import onnx_ir as ir

from whet.graph.edit import constant_tensor

_FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant"})


class GraphCost(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the nodes of the main graph; dimensions that are not known count as 1.

    Attributes:
        nodes: number of nodes.
        bytes: operands read and results written.
        flops: operations: two for a multiply-add, one for an element of everything else.
    """

    nodes: int
    bytes: int
    flops: int


def graph_cost(model: ir.Model) -> GraphCost:
    """Return what the main graph costs."""
    nodes = list(model.graph)
    return GraphCost(
        nodes=len(nodes),
        bytes=sum(_bytes(node) for node in nodes if node.op_type not in _FREE),
        flops=sum(_flops(node) for node in nodes if node.op_type not in _FREE),
    )


def _dims(value: ir.Value | None) -> list[int]:
    tensor = constant_tensor(value)
    if tensor is not None:
        return [int(d) for d in tensor.shape.numpy()]
    if value is None or value.shape is None:
        return []
    return [d if isinstance(d, int) else 1 for d in value.shape]


def _size(value: ir.Value | None) -> int:
    return 0 if value is None else math.prod(_dims(value))


def _bytes(node: ir.Node) -> int:
    return sum(_size(v) * _bits(v) // 8 for v in (*node.inputs, *node.outputs))


def _bits(value: ir.Value | None) -> int:
    """Return how many bits an element takes; 0 for texts, whose length nobody knows."""
    dtype = None if value is None else value.dtype
    return 0 if dtype is None or dtype is ir.DataType.STRING else dtype.bitwidth


def _flops(node: ir.Node) -> int:
    result = _size(node.outputs[0]) if node.outputs else 0
    if node.op_type == "Conv":
        return 2 * result * math.prod(_dims(node.inputs[1])[1:])
    if node.op_type == "ConvTranspose":
        return 2 * _size(node.inputs[0]) * math.prod(_dims(node.inputs[1])[1:])
    if node.op_type in ("MatMul", "Gemm"):
        transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
        left = _dims(node.inputs[0])
        return 2 * result * (left[0 if transposed else -1] if left else 1)
    return max(result, *(_size(v) for v in node.inputs), 0)

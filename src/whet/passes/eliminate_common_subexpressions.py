"""Merging of nodes that compute the same thing, and of equal small constants."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from whet.graph.edit import begin_rewrite, bypass, constant_tensor

_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)
_MAX_CONSTANT_BYTES = 1 << 16
"""Larger constants are compared by identity alone: reading them all costs more than it saves."""


def eliminate_common_subexpressions(model: ir.Model) -> int:
    """Let equal constants and equal nodes of the main graph be computed once; return merges."""
    count = _merge_constants(model.graph)
    seen: dict[Hashable, ir.Node] = {}
    for node in list(model.graph):
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            count += _merge(node, first)
    return count


def _merge_constants(graph: ir.Graph) -> int:
    count = 0
    seen: dict[Hashable, ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = constant_tensor(value)
        if tensor is None or tensor.nbytes > _MAX_CONSTANT_BYTES or value.is_graph_output():
            continue
        if tensor.dtype == ir.DataType.STRING or value.is_graph_input():
            continue
        key = (tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes())
        first = seen.setdefault(key, value)
        if first is not value:
            begin_rewrite(graph)
            value.replace_all_uses_with(first)
            del graph.initializers[value.name or ""]
            count += 1
    return count


def _key(node: ir.Node) -> Hashable | None:
    if node.op_type in _RANDOM and node.domain == "":
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        content = _content(attribute)
        if content is None:
            return None
        attributes.append((name, attribute.type, content))
    outputs = tuple(bool(v.name) for v in node.outputs)
    return (node.domain, node.op_type, tuple(node.inputs), tuple(attributes), outputs)


def _content(attribute: ir.Attr) -> Hashable | None:
    plain = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
    lists = (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)
    if attribute.is_ref():
        return None
    if attribute.type in plain:
        return repr(attribute.value)
    if attribute.type in lists:
        return repr(tuple(attribute.value))
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.dtype != ir.DataType.STRING and tensor.nbytes <= _MAX_CONSTANT_BYTES:
            return (tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes())
    return None


def _merge(node: ir.Node, first: ir.Node) -> int:
    if any(v.is_graph_output() for v in node.outputs):
        return 0
    for mine, theirs in zip(list(node.outputs), first.outputs, strict=True):
        if mine.name:
            bypass(node, mine, theirs)
    return 1

"""Operators that are replaced by the function that ONNX itself defines them with.

For those only that end in a loop, or hold graphs of their own; whatever has an equation is
lowered as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.graph.opset import PREVIEW_DOMAIN, canonical_opset

EXPANDED = frozenset({("", "LinearAttention"), (PREVIEW_DOMAIN, "FlexAttention")})
"""Domain and name of the operators."""

DOMAIN = "whet.functions"
"""Domain of the functions, until they are inlined."""


def expand_operators(model: ir.Model) -> int:
    """Turn nodes into calls of functions that are added to the model, in place.

    Element types and shapes of their inputs must be known. Returns how many were turned.

    Raises:
        UnsupportedError: ONNX has no function for a node, or an input's type is unknown.
    """
    count = 0
    for node in list(_nodes(model)):
        name = f"{node.op_type}_{count}"
        function = _function(node, name)
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
        node.domain, node.op_type, node.version = DOMAIN, name, None
        node.attributes.clear()
        count += 1
    return count


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph.all_nodes():
        if (node.domain, node.op_type) in EXPANDED:
            yield node


def _function(node: ir.Node, name: str) -> ir.Function:
    version = 1 if node.domain else canonical_opset()
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    where = f"node {node.name!r}"
    types = [_type(value, where) for value in node.inputs]
    found = schema.get_context_dependent_function_with_opset_version(
        max(schema.context_dependent_function_opset_versions),
        ir.to_proto(node).SerializeToString(),
        types,
    )
    proto = onnx.FunctionProto.FromString(found)
    if not proto.node:
        raise UnsupportedError(f"this form of {node.op_type} has no definition", where=where)
    proto.domain, proto.name = DOMAIN, name
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", canonical_opset()))
    return _bound(proto, node)


def _bound(proto: onnx.FunctionProto, node: ir.Node) -> ir.Function:
    """Return the function with the attributes of its call put in, for as many inputs as it has."""
    given = {a.name: a for a in ir.to_proto(node).attribute}
    for inner in proto.node:
        for attribute in list(inner.attribute):
            if not attribute.ref_attr_name:
                continue
            inner.attribute.remove(attribute)
            if attribute.ref_attr_name in given:
                value = inner.attribute.add()
                value.CopyFrom(given[attribute.ref_attr_name])
                value.name = attribute.name
    del proto.attribute[:]
    del proto.attribute_proto[:]
    return ir.serde.deserialize_function(proto)


def _type(value: ir.Value | None, where: str) -> bytes:
    if value is None:
        return bytes(onnx.TypeProto().SerializeToString())
    if value.dtype is None:
        raise UnsupportedError(f"the element type of {value.name} is unknown", where=where)
    shape = None
    if value.shape is not None:
        shape = [d if isinstance(d, int) else d.value for d in value.shape]
    kind = onnx.helper.make_tensor_type_proto(int(value.dtype), shape)
    return bytes(kind.SerializeToString())

"""A stable, readable text of a graph, one line a node."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

_SHOWN_ELEMENTS = 8


def graph_text(model: ir.Model) -> str:
    """Return the model as text: inputs, constants that are read, nodes in order, outputs.

    Small constants show their values; everything shows element type and shape. Equal graphs give
    equal text, so the text can be compared and kept in version control.
    """
    return "\n".join(_graph_lines(model.graph, "")) + "\n"


def type_text(value: ir.Value) -> str:
    """Return ``f32[1,N,768]``, or ``?`` for what is unknown."""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return str(value.type)
    dtype = "?" if value.dtype is None else value.dtype.short_name()
    if value.shape is None:
        return f"{dtype}[…]"
    return f"{dtype}[{','.join(_dim_text(d) for d in value.shape)}]"


def _dim_text(dim: int | ir.SymbolicDim) -> str:
    return str(dim) if isinstance(dim, int) else (dim.value or "?")


def _graph_lines(graph: ir.Graph, indent: str) -> Iterator[str]:
    for value in graph.inputs:
        yield f"{indent}input  %{value.name}: {type_text(value)}"
    for value in sorted(graph.initializers.values(), key=lambda v: v.name or ""):
        yield f"{indent}const  %{value.name}: {type_text(value)}{_value_text(value)}"
    for node in graph:
        yield from _node_lines(node, indent)
    for value in graph.outputs:
        yield f"{indent}output %{value.name}: {type_text(value)}"


def _value_text(value: ir.Value) -> str:
    tensor = value.const_value
    if tensor is None or tensor.size > _SHOWN_ELEMENTS or tensor.dtype == ir.DataType.STRING:
        return ""
    numbers = ", ".join(_number_text(n) for n in tensor.numpy().reshape(-1))
    return f" = {{{numbers}}}"


def _number_text(number: np.generic) -> str:
    item = number.item()
    return f"{item:.6g}" if isinstance(item, float) else str(item)


def _node_lines(node: ir.Node, indent: str) -> Iterator[str]:
    outputs = ", ".join(f"%{v.name}: {type_text(v)}" if v.name else "_" for v in node.outputs)
    inputs = ", ".join("_" if v is None else f"%{v.name}" for v in node.inputs)
    domain = f"{node.domain}::" if node.domain else ""
    plain = {k: a for k, a in node.attributes.items() if not _is_graph(a)}
    attributes = ", ".join(f"{k}={_attribute_text(a)}" for k, a in sorted(plain.items()))
    suffix = f" {{{attributes}}}" if attributes else ""
    yield f"{indent}{outputs} = {domain}{node.op_type}({inputs}){suffix}"
    for name, attr in sorted(node.attributes.items()):
        if _is_graph(attr):
            graphs = [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else attr.as_graphs()
            for graph in graphs:
                yield f"{indent}  {name}:"
                yield from _graph_lines(graph, indent + "    ")


def _is_graph(attr: ir.Attr) -> bool:
    return attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _attribute_text(attr: ir.Attr) -> str:
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return f"{tensor.dtype.short_name()}{list(tensor.shape.dims)}"
    value = attr.value
    if attr.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS):
        return "[" + ",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""The body of an If, Loop or Scan as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant_tensor

Form = tuple[Any, tuple[int | None, ...]] | None
"""Type and extents of an array, ``None`` for one that varies; ``None`` for a sequence."""


def captured(body: ir.Graph) -> tuple[ir.Value, ...]:
    """Return the values from around that a body reads or gives, those of bodies in it too."""
    inside = {id(graph) for graph in (body, *body.subgraphs())}
    read = [v for node in body.all_nodes() for v in node.inputs]
    given = [v for graph in (body, *body.subgraphs()) for v in graph.outputs]
    found = {id(v): v for v in (*read, *given) if v is not None and id(v.graph) not in inside}
    return tuple(found.values())


def form_of(value: Any) -> Form:
    """Return type and extents of a value."""
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else None


def wider(one: Form, other: Form) -> Form:
    """Return what holds for both of two values; extents that differ vary."""
    if one is None or other is None or len(one[1]) != len(other[1]):
        return other
    pairs = zip(one[1], other[1], strict=True)
    return other[0], tuple(a if a == b else None for a, b in pairs)


def body_model(
    body: ir.Graph, around: ir.Model, forms: Mapping[str, Form], outputs: Sequence[str]
) -> ir.Model:
    """Return a model that does what a body does in one run.

    Args:
        body: the body; constants from around it become constants of the model.
        around: the model that it is in.
        forms: by the names of its inputs and of what it reads from around: what they are.
        outputs: values made in it that the model gives.
    """
    graph = body.clone(allow_outer_scope_values=True)
    graph.opset_imports.update(around.graph.opset_imports)
    inner = {value.name or "": value for node in graph for value in node.outputs}
    for node in graph.all_nodes():
        for made in node.outputs:
            made.shape = None  # what was said may hold for another batch
    moved = {id(v): _moved(v, graph) for v in captured(graph)}
    for node in graph.all_nodes():
        for position, value in enumerate(node.inputs):
            if value is not None and id(value) in moved:
                node.replace_input_with(position, moved[id(value)])
    for sub in graph.subgraphs():
        sub.outputs[:] = [moved.get(id(v), v) for v in sub.outputs]
    graph.outputs[:] = [inner[name] for name in outputs]
    for value in graph.inputs:
        _describe(value, forms[value.name or ""])
    return ir.Model(graph, ir_version=around.ir_version)


def _moved(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """Return a value from around as a constant or an input of a graph."""
    tensor = constant_tensor(value)
    made = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=tensor)
    if tensor is None:
        graph.inputs.append(made)
    else:
        made.type, made.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        graph.register_initializer(made)
    return made


def _describe(value: ir.Value, form: Form) -> None:
    if form is None:
        return
    dtype, extents = form
    names = (f"{value.name}.{axis}" for axis in range(len(extents)))
    text = dtype.kind == "O"
    value.type = ir.TensorType(ir.DataType.STRING if text else ir.DataType.from_numpy(dtype))
    value.shape = ir.Shape(
        [name if size is None else size for name, size in zip(names, extents, strict=True)]
    )

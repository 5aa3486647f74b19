"""From graph to equations: every node of the model becomes tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.dtypes import DTYPES
from whet.errors import CompileError, UnsupportedError, WhetError
from whet.index import Dim, Poly, as_poly, var
from whet.kernel.tensor import Tensor
from whet.lower.uses import sources
from whet.ops.node import Node, Op, constant


@dataclass(slots=True)
class Equations:
    """A model as equations.

    Attributes:
        tensors: all tensors, each after those it loads.
        inputs: the model's inputs, in order.
        outputs: the model's outputs with their names, in order.
    """

    tensors: list[Tensor]
    inputs: list[Tensor]
    outputs: list[tuple[str, Tensor]]


OpTable = Mapping[tuple[str, str], Op]


def build_equations(model: ir.Model, table: OpTable) -> Equations:
    """Lower every node of a model.

    Raises:
        UnsupportedError: operators or types without a lowering; all of them are listed.
    """
    _check_supported(model, table)
    graph = model.graph
    tensors: dict[ir.Value, Tensor] = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            tensors[value] = constant(name, _array(value.const_value))
    inputs = []
    for value in graph.inputs:
        if value not in tensors:
            tensors[value] = _input(value)
            inputs.append(tensors[value])
    made: list[Tensor] = []
    _lower_all(graph, tensors, table)
    outputs = [(str(value.name), tensors[value]) for value in graph.outputs]
    _collect([t for _, t in outputs], made)
    return Equations(made, inputs, outputs)


def _lower_all(graph: ir.Graph, tensors: dict[ir.Value, Tensor], table: OpTable) -> None:
    """Lower every node; nodes behind one that cannot be lowered are left out of the report.

    Raises:
        UnsupportedError: what could not be lowered, all of it.
    """
    problems: list[UnsupportedError] = []
    for node in graph:
        missing = [v for v in node.inputs if v is not None and v not in tensors]
        if missing:
            problems.extend(_absent(v) for v in missing if v.producer() is None)
            continue
        try:
            made = _lower(node, tensors, table)
        except UnsupportedError as error:
            problems.append(error)
            continue
        tensors.update(zip(node.outputs, made, strict=False))
        wanted = [v for v in node.outputs[len(made) :] if v.uses() or v.is_graph_output()]
        problems.extend(_absent(v) for v in wanted)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = ", ".join(f"{p.message} at {p.where}" for p in problems)
        raise UnsupportedError(
            f"the model uses what Whet cannot compile yet: {listed}",
            where=graph.name,
            hint=problems[0].hint,
        )


def _absent(value: ir.Value) -> UnsupportedError:
    node = value.producer()
    if node is None:
        return UnsupportedError("an input has no value", where=str(value.name))
    return UnsupportedError(f"output {value.index()} of {node.op_type}", where=node.name)


def _lower(node: ir.Node, tensors: Mapping[ir.Value, Tensor], table: OpTable) -> list[Tensor]:
    view = Node(
        name=node.name or f"{node.op_type}:{node.outputs[0].name}",
        op=node.op_type,
        inputs=tuple(None if v is None else tensors[v] for v in node.inputs),
        attributes={name: _attribute(a) for name, a in node.attributes.items()},
        outputs=tuple(v.name or "" for v in node.outputs),
    )
    try:
        made = table[(_domain(node), node.op_type)].lower(view)
    except WhetError:
        raise
    except Exception as error:
        raise CompileError(
            f"{node.op_type} cannot be lowered: {type(error).__name__}: {error}",
            where=view.name,
            hint="check the node with onnx.checker; if it is valid, report this",
        ) from error
    for tensor in made:
        _check_extents(view, tensor)
    return made


def _check_extents(node: Node, tensor: Tensor) -> None:
    """Refuse extents that are negative: memory would be laid out by them."""
    for extent in tensor.shape:
        if extent.constant is not None and extent.constant < 0:
            raise node.error(f"the result has the shape {[str(e) for e in tensor.shape]}")


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _attribute(attribute: Any) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return _array(attribute.value)
    return attribute.value


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.numpy())


def _input(value: ir.Value) -> Tensor:
    assert value.dtype is not None and value.shape is not None, "inputs are typed by the frontend"
    return Tensor(str(value.name), _shape(value.shape), _dtype_name(value.dtype))


def _shape(shape: ir.Shape) -> tuple[Poly, ...]:
    return tuple(as_poly(d) if isinstance(d, int) else var(Dim(str(d.value))) for d in shape)


def _dtype_name(dtype: ir.DataType) -> str:
    return str(np.dtype(dtype.numpy()).name) if dtype != ir.DataType.STRING else "string"


def _check_supported(model: ir.Model, table: OpTable) -> None:
    problems: dict[str, int] = {}
    for node in model.graph:
        if (_domain(node), node.op_type) not in table:
            label = f"operator {node.op_type}" + (f" of {node.domain}" if node.domain else "")
            problems[label] = problems.get(label, 0) + 1
        for value in node.outputs:
            if value.dtype is not None and _dtype_name(value.dtype) not in DTYPES:
                label = f"type {value.dtype.name.lower()} of {node.op_type}"
                problems[label] = problems.get(label, 0) + 1
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None:
            problems[f"input {value.name} of unknown type"] = 1
        elif _dtype_name(value.dtype) not in DTYPES:
            problems[f"type {value.dtype.name.lower()} of input {value.name}"] = 1
    if problems:
        listed = ", ".join(f"{label} ({count}x)" for label, count in sorted(problems.items()))
        raise UnsupportedError(
            f"the model uses what Whet cannot compile yet: {listed}",
            where=model.graph.name,
            hint="export the model without these parts, and compute them before or after it",
        )


def _collect(roots: list[Tensor], made: list[Tensor]) -> None:
    """Append all tensors that the roots need, each after those it loads."""
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(t, False) for t in reversed(roots)]
    while stack:
        tensor, ready = stack.pop()
        if ready:
            made.append(tensor)
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        stack.append((tensor, True))
        if tensor.definition is not None:
            stack.extend((s, False) for s in reversed(sources(tensor.definition)))

"""float16 and bfloat16: a model in half the bytes, with what does not fit left in float32.

A node runs in the small type if its operator takes it and everything it reads and gives fits;
casts stand where the types meet. Inputs and outputs of the model stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx.defs
import onnx_ir as ir

from whet.driver import compile as compile_model
from whet.graph.edit import Names, add_initializer, constant_tensor, make_node, remove_dead
from whet.options import Options
from whet.quantize.bodies import body_nodes
from whet.quantize.data import CalibrationData
from whet.quantize.layers import is_float32

Array = np.ndarray[Any, Any]

KINDS: dict[str, ir.DataType] = {
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
"""The small types."""

_NUMPY: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_ROOM = 0.5
"""Share of the largest number that observed values may reach: others may come."""

_STAY = frozenset({"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"})

_CARRY = frozenset({"Expand", "Identity", "Reshape", "Sqrt", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose results are as small as what they read, or nearly."""


def largest_values(model: ir.Model, data: CalibrationData, options: Options) -> dict[str, float]:
    """Run a model on data and return the largest magnitude of every float32 value.

    Raises:
        WhetError: the data does not fit, or the model cannot be compiled.
    """
    seen = model.clone()
    known = {v.name for v in seen.graph.outputs}
    for node in seen.graph:
        extra = [v for v in node.outputs if is_float32(v) and v.name and v.name not in known]
        seen.graph.outputs.extend(extra)
    program = compile_model(seen, options=options)
    found: dict[str, float] = {}
    for batch in data.batches():
        for name, array in {**program.run(batch.feeds), **batch.feeds}.items():
            if array.dtype == np.float32 and array.size:
                top = float(np.abs(array).max())
                found[name] = max(found.get(name, 0.0), top if np.isfinite(top) else np.inf)
    return found


def convertible(model: ir.Model, kind: str) -> tuple[str, ...]:
    """Return the nodes whose operators take a small type."""
    return tuple(node.name or "" for node in model.graph if _variables(node, kind))


def in_bodies(model: ir.Model, kind: str) -> dict[str, str]:
    """Return the nodes in bodies that take a small type and stay in float32, and why."""
    return {node.name or "": why for node, why in body_nodes(model) if _variables(node, kind)}


def unfit(model: ir.Model, kind: str, largest: Mapping[str, float]) -> dict[str, str]:
    """Return the nodes that must stay in float32, and why."""
    limit = float(ml_dtypes.finfo(_NUMPY[kind]).max) * _ROOM  # type: ignore[no-untyped-call]
    found: dict[str, str] = {}
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and is_float32(value) and _size(value, largest) > limit:
                found.setdefault(node.name or "", f"{value.name} is too large")
    return {**_divided(model, kind), **found}


def _divided(model: ir.Model, kind: str) -> dict[str, str]:
    """Return the nodes that read constants of which a small type leaves 0, or results of those.

    Such a constant keeps a length or a variance from being 0 before something is divided by it:
    ``x / max(|x|, 1e-12)`` would be 0 / 0.
    """
    found: dict[str, str] = {}
    tiny: set[str] = set()
    for node in model.graph:
        read = [v for v in node.inputs if v is not None and is_float32(v)]
        gone = [v.name for v in read if _vanishes(v, kind)]
        small = [v.name for v in read if v.name in tiny]
        if gone or small:
            found[node.name or ""] = f"{(gone or small)[0]} may become 0"
        if gone or (small and node.op_type in _CARRY):
            tiny |= {v.name or "" for v in node.outputs}
    return found


def _size(value: ir.Value, largest: Mapping[str, float]) -> float:
    tensor = constant_tensor(value)
    if tensor is not None:
        array = tensor.numpy()
        return float(np.abs(array).max()) if array.size else 0.0
    return largest.get(value.name or "", 0.0)


def _vanishes(value: ir.Value, kind: str) -> bool:
    """Tell whether nothing is left of a constant in a small type."""
    tensor = constant_tensor(value)
    if tensor is None:
        return False
    array = tensor.numpy()
    with np.errstate(over="ignore"):
        return bool(array.any()) and not array.astype(_NUMPY[kind]).any()


def write_floats(base: ir.Model, kind: str, nodes: Collection[str]) -> ir.Model:
    """Return a copy of a graph in which some nodes run in a small type."""
    model = base.clone()
    writer = _Writer(model, kind)
    for node in list(model.graph):
        if node.name in nodes:
            writer.convert(node)
    remove_dead(model)
    return model


class _Writer:
    """Edits one copy of a graph."""

    def __init__(self, model: ir.Model, kind: str) -> None:
        self._graph, self._kind, self._names = model.graph, kind, Names(model)
        self._small: dict[str, ir.Value] = {}

    def convert(self, node: ir.Node) -> None:
        """Let a node read and give the small type."""
        variables = _variables(node, self._kind)
        formals = _formals(node)
        for position, value in enumerate(node.inputs):
            if value is not None and is_float32(value) and formals[0][position] in variables:
                node.replace_input_with(position, self._read(value))
        for value, formal in zip(node.outputs, formals[1], strict=True):
            if is_float32(value) and formal in variables:
                self._give(node, value)

    def _read(self, value: ir.Value) -> ir.Value:
        name = value.name or ""
        if name not in self._small:
            tensor = constant_tensor(value)
            fresh = self._names.fresh(f"{name}_{self._kind}")
            if tensor is not None:
                array = tensor.numpy().astype(_NUMPY[self._kind])
                self._small[name] = add_initializer(self._graph, array, fresh)
            else:
                made = ir.Value(name=fresh, type=self._type(), shape=value.shape)
                cast = self._cast(value, made, KINDS[self._kind])
                producer = value.producer()
                if producer is None:
                    self._graph.insert_before(self._graph[0], [cast])
                else:
                    self._graph.insert_after(producer, [cast])
                self._small[name] = made
        return self._small[name]

    def _give(self, node: ir.Node, value: ir.Value) -> None:
        """Let a node give the small type under a new name, and a cast the value as it was."""
        name = value.name or ""
        wide = ir.Value(name=None, type=value.type, shape=value.shape)
        value.replace_all_uses_with(wide, replace_graph_outputs=True)
        value.name = self._names.fresh(f"{name}_{self._kind}")
        value.type = self._type()
        wide.name = name
        self._graph.insert_after(node, [self._cast(value, wide, ir.DataType.FLOAT)])
        self._small[name] = value

    def _type(self) -> ir.TensorType:
        return ir.TensorType(KINDS[self._kind])

    def _cast(self, value: ir.Value, made: ir.Value, to: ir.DataType) -> ir.Node:
        name = self._names.fresh(f"{made.name or value.name}_cast")
        return make_node("Cast", [value], {"to": to}, outputs=[made], name=name)


def _formals(node: ir.Node) -> tuple[list[str], list[str]]:
    """Return the type of each input and output in the operator's signature."""
    schema = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version(), "")
    sides = ((schema.inputs, node.inputs), (schema.outputs, node.outputs))
    found = [
        [formal[min(k, len(formal) - 1)].type_str if formal else "" for k in range(len(values))]
        for formal, values in sides
    ]
    return found[0], found[1]


def _variables(node: ir.Node, kind: str) -> set[str]:
    """Return the type variables of a node's float32 inputs that may be the small type."""
    if node.domain or node.op_type in _STAY or any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    ):  # fmt: skip
        return set()
    schema = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version(), "")
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    inputs = _formals(node)[0]
    used = {f for v, f in zip(node.inputs, inputs, strict=True) if is_float32(v)}
    return {f for f in used if f"tensor({kind})" in allowed.get(f, [])}

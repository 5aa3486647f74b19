"""How large a model is, before any of it is unfolded: nodes, nesting, bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx
import onnx_ir as ir

from whet.errors import ModelError
from whet.graph.opset import ONNX_DOMAINS
from whet.limits import Limits

_Key = tuple[str, str, str]


class _Extent(NamedTuple):
    """Nodes of a body once its functions are inlined, and how deep it is nested."""

    nodes: int
    depth: int


def check_extent(proto: onnx.ModelProto, limits: Limits) -> None:
    """Refuse models that are too large once unfolded; none of it is unfolded for that.

    Functions that call functions can stand for exponentially many nodes.

    Raises:
        ModelError: functions call themselves or are defined twice.
        ResourceError: there are too many nodes, or they are nested too deep.
    """
    bodies: dict[_Key, list[onnx.NodeProto]] = {}
    for function in proto.functions:
        key = (_domain(function.domain), function.name, function.overload)
        if key in bodies:
            raise ModelError(
                f"function {key[0]}.{key[1]} is defined twice",
                where=f"function {key[1]!r}",
                hint="export the model again",
            )
        bodies[key] = list(function.node)
    known: dict[_Key, _Extent] = {}
    for key in _callees_first(bodies, limits):
        known[key] = _extent_of(bodies[key], known, limits)
    whole = _extent_of(proto.graph.node, known, limits)
    place = f"graph {proto.graph.name!r}"
    limits.require("nodes", whole.nodes, f"the model has {whole.nodes} nodes", place)


def _domain(domain: str) -> str:
    return "" if domain in ONNX_DOMAINS else domain


def _extent_of(
    nodes: Iterable[onnx.NodeProto], known: Mapping[_Key, _Extent], limits: Limits
) -> _Extent:
    """Return the extent of a body whose callees are known."""
    count, deepest = 0, 0
    todo = [(node, 0) for node in nodes]
    while todo:
        node, depth = todo.pop()
        inner = known.get(_callee(node), _Extent(1, -1))
        count, deepest = count + inner.nodes, max(deepest, depth + inner.depth + 1)
        place = f"node {node.name!r} ({node.op_type})"
        limits.require("depth", deepest, f"sub-graphs or functions are {deepest} deep", place)
        todo.extend((inside, depth + 1) for g in _graphs(node) for inside in g.node)
    return _Extent(count, deepest)


def _callee(node: onnx.NodeProto) -> _Key:
    return _domain(node.domain), node.op_type, node.overload


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    own = [a.g for a in node.attribute if a.HasField("g")]
    return own + [g for a in node.attribute for g in a.graphs]


def _callees_first(bodies: Mapping[_Key, list[onnx.NodeProto]], limits: Limits) -> list[_Key]:
    """Return the functions, each after those it calls.

    Raises:
        ModelError: a function calls itself, directly or through others.
    """
    calls = {key: _called(nodes, bodies, limits) for key, nodes in bodies.items()}
    order: list[_Key] = []
    state: dict[_Key, bool] = {}  # False while its callees are looked at
    todo = list(calls)
    while todo:
        key = todo[-1]
        if key in state:
            todo.pop()
            if not state[key]:
                state[key] = True
                order.append(key)
            continue
        state[key] = False
        for inner in calls[key]:
            if state.get(inner) is False:
                raise ModelError(
                    f"function {inner[0]}.{inner[1]} calls itself",
                    where=f"function {inner[1]!r}",
                    hint="ONNX functions must not be recursive; use Loop or Scan",
                )
        todo.extend(inner for inner in calls[key] if inner not in state)
    return order


def _called(
    nodes: Iterable[onnx.NodeProto], bodies: Mapping[_Key, object], limits: Limits
) -> list[_Key]:
    """Return which functions a body calls, its sub-graphs included."""
    found: dict[_Key, None] = {}
    todo = [(node, 0) for node in nodes]
    while todo:
        node, depth = todo.pop()
        if _callee(node) in bodies:
            found[_callee(node)] = None
        place = f"node {node.name!r} ({node.op_type})"
        limits.require("depth", depth, f"sub-graphs are {depth} deep", place)
        todo.extend((inside, depth + 1) for g in _graphs(node) for inside in g.node)
    return list(found)


def check_size(model: ir.Model, limits: Limits) -> None:
    """Refuse models whose nodes, constants or tensors of known shape are too many or too large.

    Raises:
        ResourceError: naming what is too large.
    """
    nodes = sum(1 for _ in model.graph.all_nodes())
    limits.require("nodes", nodes, f"the model has {nodes} nodes", f"graph {model.graph.name!r}")
    total = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        size = 0 if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.nbytes
        total += size
        what = f"the constant has {size} bytes"
        limits.require("tensor_bytes", size, what, f"initializer {name!r}")
    what = f"the constants have {total} bytes"
    limits.require("total_bytes", total, what, f"graph {model.graph.name!r}")
    for value in model.graph.inputs:
        _check_value(value, f"input {value.name!r}", limits)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _check_value(value, f"node {node.name!r} ({node.op_type})", limits)


def _check_value(value: ir.Value, place: str, limits: Limits) -> None:
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return
    limits.require("rank", len(value.shape), f"{value.name!r} has rank {len(value.shape)}", place)
    elements = 1
    for dim in value.shape:
        elements *= dim if isinstance(dim, int) else 1
    size = -(-elements * value.dtype.bitwidth // 8)
    limits.require("tensor_bytes", size, f"{value.name!r} has at least {size} bytes", place)

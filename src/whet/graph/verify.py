"""Structure checks: every value defined once, before its use, and with a type."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import name_of


def find_fault(model: ir.Model, *, typed: bool = False) -> tuple[str, str] | None:
    """Return what is wrong with the structure of a model and where, or ``None``.

    Args:
        model: the model to look at; sub-graphs are included.
        typed: also ask that every value of the main graph has an element type.
    """
    fault = _graph_fault(model.graph, frozenset(), frozenset())
    if fault is None and typed:
        fault = _untyped(model.graph)
    return fault


def _graph_fault(
    graph: ir.Graph, outer: frozenset[ir.Value], outer_names: frozenset[str]
) -> tuple[str, str] | None:
    defined = set(outer)
    names = set(outer_names)
    roots = dict.fromkeys([*graph.inputs, *graph.initializers.values()])
    fault = _define(list(roots), defined, names, graph)
    if fault:
        return fault
    for node in graph:
        fault = _inputs_fault(node, defined, names) or _define(
            [v for v in node.outputs if v.name], defined, names, node
        )
        if fault:
            return fault
    for value in graph.outputs:
        if value not in defined or value in outer:
            return f"output {value.name!r} is not produced in its graph", _place(graph)
    return None


def _inputs_fault(node: ir.Node, defined: set[ir.Value], names: set[str]) -> tuple[str, str] | None:
    for value in node.inputs:
        if value is not None and value not in defined:
            return f"input {value.name!r} is used before anything produces it", _place(node)
    for attr in node.attributes.values():
        for inner in _subgraphs(attr):
            fault = _graph_fault(inner, frozenset(defined), frozenset(names))
            if fault:
                return fault
    return None


def _define(
    values: list[ir.Value], defined: set[ir.Value], names: set[str], at: ir.Node | ir.Graph
) -> tuple[str, str] | None:
    for value in values:
        if value.name in names:
            return f"the name {value.name!r} is given to two values", _place(at)
        if value.name:
            names.add(value.name)
        defined.add(value)
    return None


def _place(at: ir.Node | ir.Graph) -> str:
    if isinstance(at, ir.Graph):
        return f"graph {at.name!r}"
    return f"node {name_of(at)!r} ({at.op_type})"


def _subgraphs(attr: ir.Attr) -> tuple[ir.Graph, ...]:
    if attr.type == ir.AttributeType.GRAPH:
        return (attr.as_graph(),)
    return tuple(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else ()


def _untyped(graph: ir.Graph) -> tuple[str, str] | None:
    for value in graph.inputs:
        if value.type is None:
            return f"the type of input {value.name!r} is unknown", _place(graph)
    for node in graph:
        for value in node.outputs:
            if value.name and value.type is None:
                return f"the type of {value.name!r} is unknown", _place(node)
    return None

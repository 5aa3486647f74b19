"""The bodies of If, Loop and Scan: their nodes, and names for their values."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from whet.graph.edit import Names, name_of


def all_nodes(model: ir.Model) -> dict[str, ir.Node]:
    """Return the nodes of a model, those in bodies too, by name."""
    return {node.name or "": node for node in model.graph.all_nodes()}


def body_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes in bodies, those in bodies of bodies too, and where they are."""
    for outer in model.graph:
        why = f"it is in a body of the {outer.op_type} {name_of(outer)}"
        for graph in graphs_of(outer):
            for node in graph.all_nodes():
                yield node, why


def graphs_of(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Return the bodies of a node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return tuple(found)


def name_body_values(model: ir.Model) -> None:
    """Give every value in a body a name that no other value of the model has, in place.

    Branches may use the same names, and bodies those of what they do not read.
    """
    names, taken = Names(model), _names_of(model.graph)
    for graph in model.graph.subgraphs():
        own = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        for value in own:
            if value.name in taken:
                value.name = names.fresh(f"{value.name}")
            taken.add(value.name or "")


def _names_of(graph: ir.Graph) -> set[str]:
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {*graph.initializers, *(value.name or "" for value in values)}

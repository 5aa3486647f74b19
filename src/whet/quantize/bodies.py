"""Nodes in the bodies of If, Loop and Scan: they are not quantised, and listed with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from whet.graph.edit import name_of


def body_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes in bodies, those in bodies of bodies too, and why they are left alone."""
    for outer in model.graph:
        for attribute in outer.attributes.values():
            why = f"it is in a body of the {outer.op_type} {name_of(outer)}"
            for graph in _graphs(attribute):
                for node in graph.all_nodes():
                    yield node, why


def _graphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else ()

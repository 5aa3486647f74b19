"""Chains of Reshape, Flatten, Squeeze and Unsqueeze become one Reshape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    begin_rewrite,
    inherit_sources,
    make_node,
    owner,
    value_like,
)
from whet.graph.match import Miss

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def merge_reshapes(model: ir.Model) -> int:
    """Let a reshape of a reshape read the source directly; return how many did.

    Element order never changes, so only the last shape counts; it must be known but for one dim.
    """
    names = Names(model)
    count = 0
    for node in list(model.graph):
        merged = merged_target(node)
        if isinstance(merged, Miss):
            continue
        _rewrite(node, *merged, names)
        count += 1
    return count


def merged_target(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | Miss:
    """Return the source and the constant target of a chain of reshapes, or why there is none."""
    if node.op_type not in _RESHAPES or node.domain != "" or node.inputs[0] is None:
        return Miss("not a reshape")
    inner = node.inputs[0].producer()
    if inner is None or inner.op_type not in _RESHAPES or inner.domain != "":
        return Miss("the input does not come from a reshape")
    source, shape = inner.inputs[0], node.outputs[0].shape
    if source is None or shape is None:
        return Miss("the shape is unknown")
    target = tuple(d if isinstance(d, int) else -1 for d in shape)
    if target.count(-1) > 1:
        return Miss(f"{target.count(-1)} dims are unknown")
    if 0 in target:
        return Miss("a dim is 0")
    return source, target


def _rewrite(node: ir.Node, source: ir.Value, target: tuple[int, ...], names: Names) -> None:
    graph, inner = owner(node), node.predecessors()[0]
    begin_rewrite(graph)
    shape = add_initializer(graph, np.array(target, np.int64), names.fresh(f"{node.name}_target"))
    output = node.outputs[0]
    value = value_like(output, names.fresh(f"{output.name}_reshaped"))
    made = make_node("Reshape", [source, shape], outputs=[value], name=node.name or "")
    inherit_sources(made, [inner, node])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [made], [output], [value])

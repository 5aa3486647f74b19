"""The common case of a fusion: a pattern of one input becomes one node of one input."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from whet.graph.edit import Names, make_node, replace_nodes, value_like
from whet.graph.match import Match, Pattern, match


def fuse_unary(
    model: ir.Model,
    pattern: Pattern,
    op_type: str,
    attributes: Mapping[str, float | int | str] | None = None,
) -> int:
    """Replace every match of ``pattern`` on a value ``x`` by ``op_type(x)``; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.graph is None or len(node.outputs) != 1:
            continue
        old = node.outputs[0]
        found = match(pattern, old)
        if not isinstance(found, Match):
            continue
        output = value_like(old, names.fresh(f"{old.name}_{op_type.lower()}"))
        made = make_node(op_type, [found["x"]], attributes, outputs=[output], name=node.name or "")
        replace_nodes(found.nodes, [made], [old], [output])
        count += 1
    return count

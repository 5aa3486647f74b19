"""Two transposes in a row become one: ``transpose(transpose(x, p), q) = transpose(x, p[q])``."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import begin_rewrite, bypass, rank
from whet.graph.match import Miss


def merge_transposes(model: ir.Model) -> int:
    """Let a transpose of a transpose read the source directly; return how many did."""
    count = 0
    for node in list(model.graph):
        merged = merged_order(node)
        if isinstance(merged, Miss):
            continue
        source, order = merged
        if order == tuple(range(len(order))):
            count += bypass(node, node.outputs[0], source)
            continue
        begin_rewrite(model.graph)
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", order)
        count += 1
    return count


def merged_order(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | Miss:
    """Return the source and the axes order of a pair of transposes, or why there is none."""
    if node.op_type != "Transpose" or node.domain != "" or node.inputs[0] is None:
        return Miss("not a Transpose")
    inner = node.inputs[0].producer()
    if inner is None or inner.op_type != "Transpose" or inner.domain != "":
        return Miss("the input does not come from a Transpose")
    source = inner.inputs[0]
    first, second = _order(inner), _order(node)
    if source is None or first is None or second is None:
        return Miss("the rank is unknown")
    return source, tuple(first[i] for i in second)


def _order(node: ir.Node) -> tuple[int, ...] | None:
    perm = node.attributes.get("perm")
    if perm is not None:
        return tuple(perm.as_ints())
    dims = rank(node.inputs[0])
    return None if dims is None else tuple(reversed(range(dims)))

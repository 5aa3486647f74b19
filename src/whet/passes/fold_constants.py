"""Evaluation, at compile time, of everything that depends on constants alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    begin_rewrite,
    constant,
    constant_tensor,
    inherit_sources,
    make_node,
    static_shape,
    value_like,
)
from whet.graph.evaluate import Array, evaluate_node
from whet.graph.match import Miss
from whet.limits import Budget

_KEPT = frozenset({"DequantizeLinear", "Constant"})
"""Quantised weights stay quantised: the kernels unpack them."""


def fold_constants(model: ir.Model, *, budget: Budget | None = None) -> int:
    """Replace nodes of the main graph whose inputs are constant by constants.

    ``Shape`` and ``Size`` count as constant where the dims they read are known. A folded graph
    output keeps an ``Identity`` node. What would exceed ``folded_bytes`` of the budget's limits
    stays a node. Returns how many nodes were folded.

    Raises:
        ResourceError: the budget's time or memory is used up.
    """
    graph, names = model.graph, Names(model)
    spend = budget or Budget()
    count, left = 0, spend.limits.folded_bytes
    for node in list(graph):
        arrays = fold_node(node)
        if isinstance(arrays, Miss):
            continue
        spend.check(f"node {node.name!r} ({node.op_type})")
        size = sum(a.nbytes for a in arrays)
        if size > left:
            continue
        left -= size
        begin_rewrite(graph)
        _substitute(graph, node, arrays, names)
        count += 1
    return count


def fold_node(node: ir.Node) -> list[Array] | Miss:
    """Return the constant outputs of a node, or why they are not constant."""
    if node.op_type in ("Shape", "Size") and node.domain == "":
        return _fold_shape(node)
    if node.domain != "" or node.op_type in _KEPT:
        return Miss(f"{node.op_type} is kept as it is")
    if node.op_type == "Identity" and node.outputs[0].is_graph_output():
        return Miss("a graph output needs a node")
    for value in node.inputs:
        if value is not None and constant_tensor(value) is None:
            return Miss(f"{value.name} is not constant")
    given = [v for v in node.inputs if v is not None]
    if not given or any(v.dtype == ir.DataType.STRING for v in (*given, *node.outputs)):
        return Miss(f"{node.op_type} has no inputs, or works on texts, which a run makes")
    return evaluate_node(node, [constant(v) for v in node.inputs])


def _fold_shape(node: ir.Node) -> list[Array] | Miss:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return Miss("the rank is unknown")
    if node.op_type == "Size":
        known = static_shape(source)
        if known is None:
            return Miss(f"{source.name} has unknown dims")
        return [np.array(np.prod(known, dtype=np.int64), dtype=np.int64)]
    dims = source.shape.dims[shape_slice(node, len(source.shape))]
    if not all(isinstance(d, int) for d in dims):
        return Miss(f"{source.name} has unknown dims")
    return [np.array(dims, dtype=np.int64)]


def shape_slice(node: ir.Node, rank: int) -> slice:
    """Return which dims a ``Shape`` node reads."""
    start, end = node.attributes.get("start"), node.attributes.get("end")
    first = 0 if start is None else start.as_int()
    last = rank if end is None else end.as_int()
    first, last = (max(0, min(rank, i + rank if i < 0 else i)) for i in (first, last))
    return slice(first, last)


def _substitute(graph: ir.Graph, node: ir.Node, arrays: list[Array], names: Names) -> None:
    for output, array in zip(list(node.outputs), arrays, strict=True):
        if not output.name or not (output.uses() or output.is_graph_output()):
            continue
        name = names.fresh(f"{output.name}_folded")
        fresh = add_initializer(graph, array, name, output.dtype)
        if not output.is_graph_output():
            output.replace_all_uses_with(fresh)
            continue
        kept = value_like(output, output.name)
        identity = make_node("Identity", [fresh], outputs=[kept], name=names.fresh(f"{name}_copy"))
        inherit_sources(identity, [node])
        output.replace_all_uses_with(kept, replace_graph_outputs=True)
        output.name = None
        graph.insert_after(node, identity)
    graph.remove(node, safe=True)

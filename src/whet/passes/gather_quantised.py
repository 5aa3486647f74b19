"""Rows of a quantised table are gathered as they are; their scales are gathered with them.

``dequantise(w, s, z)[i] = (w[i] - z[i]) * s[i]`` where scales run along the axis that is gathered
along, as embeddings are stored with one scale for each row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, owner, rank, replace_nodes
from whet.graph.match import Miss
from whet.passes.quantised import BYTES, Array, Linear8, Maker, as_dequantised, rewrite_all, typed


def gather_quantised(model: ir.Model) -> int:
    """Gather bytes of every table of the main graph with a scale a row; return how many."""
    return rewrite_all(model, table_of, _rewrite)


def table_of(node: ir.Node) -> tuple[ir.Node, Linear8] | Miss:
    """Return a Gather and the table that it reads, or why it stays."""
    if node.domain != "" or node.op_type != "Gather":
        return Miss(f"{node.op_type} is no Gather")
    linear = as_dequantised(node.inputs[0])
    if isinstance(linear, Miss):
        return linear
    dims, attribute = rank(linear.source), node.attributes.get("axis")
    axis = 0 if attribute is None else attribute.as_int()
    if linear.source.dtype not in BYTES or constant(linear.source) is None or not dims:
        return Miss(f"{linear.source.name} is no constant of 8 bits")
    if linear.whole or axis % dims != linear.axis:
        return Miss(f"{linear.source.name} has no scale for each of its rows")
    if rank(node.inputs[1]) is None or node.outputs[0].dtype != ir.DataType.FLOAT:
        return Miss(f"the indices of {node.name} are of unknown rank")
    return node, linear


def _rewrite(found: tuple[ir.Node, Linear8], names: Names) -> None:
    node, linear = found
    old, indices = node.outputs[0], node.inputs[1]
    make = Maker(owner(node), names, [])
    kind = linear.source.dtype or ir.DataType.INT8
    rows = typed(old, names.fresh(f"{old.name}_bytes"), kind)
    make.node("Gather", [linear.source, indices], rows, axis=linear.axis)
    behind = (rank(linear.source) or 1) - 1 - linear.axis
    if np.any(linear.zero):
        wide = ir.DataType.INT32
        rows = make.node("Cast", [rows], typed(old, names.fresh(f"{old.name}_wide"), wide), to=wide)
        zeros = _gathered(make, linear.zero.astype(np.int32), node, behind)
        rows = make.node("Sub", [rows, zeros], typed(old, names.fresh(f"{old.name}_moved"), wide))
    single = ir.DataType.FLOAT
    values = make.node(
        "Cast", [rows], typed(old, names.fresh(f"{old.name}_steps"), single), to=single
    )
    factor = _gathered(make, linear.scale, node, behind)
    output = make.node(
        "Mul", [values, factor], typed(old, names.fresh(f"{old.name}_float"), single)
    )
    replace_nodes([node], make.nodes, [old], [output])


def _gathered(
    make: Maker,
    array: Array,
    node: ir.Node,
    behind: int,
) -> ir.Value:
    """Return the numbers of the rows that are gathered, with dimensions of 1 behind them."""
    indices = node.inputs[1]
    assert indices is not None, "Gather has indices"
    shaped = make.constant(array.reshape(-1, *[1] * behind), f"{node.outputs[0].name}_rows")
    dims = None if indices.shape is None else ir.Shape([*indices.shape.dims, *[1] * behind])
    output = ir.Value(
        name=make.names.fresh(f"{node.outputs[0].name}_of_rows"), type=shaped.type, shape=dims
    )
    return make.node("Gather", [shaped, indices], output, axis=0)

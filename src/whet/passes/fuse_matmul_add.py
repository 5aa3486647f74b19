"""MatMul and the addition of a bias become Gemm, for matrices."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import (
    Names,
    constant_tensor,
    make_node,
    rank,
    replace_nodes,
    static_shape,
    value_like,
)
from whet.graph.match import Any, Const, Match, Miss, Op, match

_PATTERN = Op("Add", (Op("MatMul", (Any("a"), Any("b"))), Const("bias")), commutative=True)


def fuse_matmul_add(model: ir.Model) -> int:
    """Fuse every rank-2 ``MatMul`` with a constant bias of one dim; return how many.

    Higher ranks stay: their bias is an epilogue of the kernel.
    """
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type != "Add" or node.domain != "":
            continue
        found = fusable(node)
        if isinstance(found, Miss):
            continue
        output = value_like(node.outputs[0], names.fresh(f"{node.outputs[0].name}_gemm"))
        inputs = [found["a"], found["b"], found["bias"]]
        made = make_node("Gemm", inputs, outputs=[output], name=node.name or "")
        replace_nodes(found.nodes, [made], [node.outputs[0]], [output])
        count += 1
    return count


def fusable(node: ir.Node) -> Match | Miss:
    """Return the match of a bias addition, or why it stays."""
    found = match(_PATTERN, node.outputs[0])
    if isinstance(found, Miss):
        return found
    if rank(found["a"]) != 2 or rank(found["b"]) != 2:
        return Miss(f"the factors have ranks {rank(found['a'])} and {rank(found['b'])}, need 2")
    tensor = constant_tensor(found["bias"])
    width = static_shape(found["b"])
    if tensor is None or width is None or tuple(tensor.shape.numpy()) != width[1:]:
        return Miss("the bias is not one number per column")
    return found

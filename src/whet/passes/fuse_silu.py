"""``x · sigmoid(α·x)`` becomes ``Swish`` (opset 24): SiLU has α = 1, quick Gelu α = 1.702."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import Names, make_node, replace_nodes, scalar, value_like
from whet.graph.match import Any, Const, Miss, OneOf, Op, match
from whet.graph.opset import canonical_opset, has_operator

_X = Any("x")
_GATE = OneOf((Op("Mul", (_X, Const("alpha")), commutative=True), _X))
_PATTERN = Op("Mul", (_X, Op("Sigmoid", (_GATE,))), commutative=True)


def fuse_silu(model: ir.Model) -> int:
    """Fuse every SiLU and quick Gelu of the main graph if the opset has ``Swish``."""
    if not has_operator("Swish", canonical_opset()):
        return 0
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type != "Mul" or node.graph is None:
            continue
        found = match(_PATTERN, node.outputs[0])
        if isinstance(found, Miss):
            continue
        alpha = scalar(found.values.get("alpha")) if "alpha" in found.values else 1.0
        if alpha is None:
            continue
        old = node.outputs[0]
        output = value_like(old, names.fresh(f"{old.name}_swish"))
        attributes = {"alpha": float(alpha)}
        made = make_node("Swish", [found["x"]], attributes, outputs=[output], name=node.name or "")
        replace_nodes(found.nodes, [made], [old], [output])
        count += 1
    return count

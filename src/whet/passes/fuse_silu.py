"""``x · sigmoid(x)`` becomes ``Swish`` (opset 24)."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.match import Any, Op
from whet.graph.opset import canonical_opset, has_operator
from whet.passes.fusing import fuse_unary

_PATTERN = Op("Mul", (Any("x"), Op("Sigmoid", (Any("x"),))), commutative=True)


def fuse_silu(model: ir.Model) -> int:
    """Fuse every SiLU of the main graph if the opset has ``Swish``; return how many."""
    if not has_operator("Swish", canonical_opset()):
        return 0
    return fuse_unary(model, _PATTERN, "Swish")

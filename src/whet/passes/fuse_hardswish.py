"""``x · min(max(x + 3, 0), 6) / 6`` becomes ``HardSwish``; ``x · HardSigmoid(x)`` likewise.

``HardSigmoid`` alone is recognised too: ``min(max(x + 3, 0), 6) / 6``, with ``α = 1/6, β = 1/2``.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from whet.graph.edit import Names, make_node, replace_nodes, value_like
from whet.graph.match import Any, Match, Miss, Number, OneOf, Op, match
from whet.passes.fusing import fuse_unary

_X = Any("x")
_SHIFTED = Op("Add", (_X, Number(3.0)), commutative=True)
_CLIPPED = Op("Clip", (_SHIFTED, Number(0.0), Number(6.0)))
_GATE = OneOf(
    (
        Op("Div", (_CLIPPED, Number(6.0))),
        Op("Mul", (_CLIPPED, Number(1 / 6)), commutative=True),
    )
)
_PRODUCT = OneOf(
    (
        Op("Mul", (_X, _GATE), commutative=True),
        Op("Div", (Op("Mul", (_X, _CLIPPED), commutative=True), Number(6.0))),
        Op("Mul", (Op("Mul", (_X, _CLIPPED), commutative=True), Number(1 / 6)), commutative=True),
    )
)
_GATED = Op("Mul", (_X, Op("HardSigmoid", (_X,), "gate")), commutative=True)


def fuse_hardswish(model: ir.Model) -> int:
    """Fuse HardSwish, then what is left of HardSigmoid, in the main graph; return how many."""
    count = fuse_unary(model, _PRODUCT, "HardSwish")
    count += fuse_unary(model, _GATE, "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})
    names = Names(model)
    for node in list(model.graph):
        if node.op_type != "Mul" or node.graph is None:
            continue
        found = gated(node)
        if isinstance(found, Miss):
            continue
        old = node.outputs[0]
        output = value_like(old, names.fresh(f"{old.name}_hardswish"))
        made = make_node("HardSwish", [found["x"]], outputs=[output], name=node.name or "")
        replace_nodes(found.nodes, [made], [old], [output])
        count += 1
    return count


def gated(node: ir.Node) -> Match | Miss:
    """Return the match of ``x · HardSigmoid(x)`` with HardSwish's numbers, or why not."""
    found = match(_GATED, node.outputs[0])
    if isinstance(found, Miss):
        return found
    attributes = found.named["gate"].attributes
    alpha = attributes["alpha"].as_float() if "alpha" in attributes else 0.2
    beta = attributes["beta"].as_float() if "beta" in attributes else 0.5
    if not (math.isclose(alpha, 1 / 6, rel_tol=1e-6) and math.isclose(beta, 0.5)):
        return Miss(f"HardSigmoid has alpha {alpha:g} and beta {beta:g}, need 1/6 and 1/2")
    return found

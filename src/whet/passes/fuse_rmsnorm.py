"""The steps of a root-mean-square normalisation become ``RMSNormalization``.

``x / √(mean(x²) + ε) · γ`` over the last axis, with ``γ`` a constant of one number per element,
as T5 and Llama models write it.
"""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import Names, make_node, replace_nodes, scalar, single_user, value_like
from whet.graph.match import Any, Const, Match, Miss, Number, OneOf, Op, match
from whet.passes.fuse_layernorm import row_parameter, row_width
from whet.passes.reductions import reduces_last_axis

_X = Any("x")
_SQUARE = OneOf((Op("Pow", (_X, Number(2.0))), Op("Mul", (_X, _X))))
_ROOT = Op(
    "Sqrt",
    (Op("Add", (Op("ReduceMean", (_SQUARE,), "mean"), Const("epsilon")), commutative=True),),
)
_PATTERN = OneOf(
    (
        Op("Div", (_X, _ROOT)),
        Op("Mul", (_X, Op("Reciprocal", (_ROOT,))), commutative=True),
        Op("Mul", (_X, Op("Div", (Number(1.0), _ROOT))), commutative=True),
    )
)


def fuse_rmsnorm(model: ir.Model) -> int:
    """Fuse every decomposed RMS normalisation of the main graph; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type not in ("Div", "Mul") or node.domain != "" or node.graph is None:
            continue
        found = fusable(node)
        if isinstance(found, Miss):
            continue
        _fuse(*found, names)
        count += 1
    return count


def fusable(node: ir.Node) -> tuple[Match, ir.Node, ir.Value] | Miss:
    """Return the match ending in ``node``, the scaling node behind it and ``γ``, or why not."""
    found = match(_PATTERN, node.outputs[0])
    if isinstance(found, Miss):
        return found
    fault = reduces_last_axis(found.named["mean"])
    if fault is not None:
        return fault
    if scalar(found["epsilon"]) is None:
        return Miss("epsilon is not one number")
    width = row_width(found["x"])
    if width is None:
        return Miss("the last dim is unknown")
    user = single_user(node.outputs[0])
    gamma = row_parameter(user, "Mul", node.outputs[0], width)
    if isinstance(gamma, Miss) or user is None:
        return gamma if isinstance(gamma, Miss) else Miss("no Mul follows")
    return found, user, gamma


def _fuse(found: Match, user: ir.Node, gamma: ir.Value, names: Names) -> None:
    old = user.outputs[0]
    output = value_like(old, names.fresh(f"{old.name}_rmsnorm"))
    attributes = {"axis": -1, "epsilon": float(scalar(found["epsilon"]) or 0.0)}
    made = make_node(
        "RMSNormalization",
        [found["x"], gamma],
        attributes,
        outputs=[output],
        name=user.name or "",
    )
    replace_nodes([*found.nodes, user], [made], [old], [output])

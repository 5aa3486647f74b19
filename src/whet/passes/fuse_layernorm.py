"""The steps of a layer normalisation become ``LayerNormalization``.

``(x − mean(x)) / √(mean((x − mean(x))²) + ε) · γ + β`` over the last axis; ``γ`` and ``β`` are
taken in if they are constants of one number per element of that axis.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    constant_tensor,
    make_node,
    replace_nodes,
    scalar,
    single_user,
    value_like,
)
from whet.graph.match import Any, Const, Match, Miss, Number, OneOf, Op, match
from whet.passes.reductions import reduces_last_axis

_CENTRED = Op("Sub", (Any("x"), Op("ReduceMean", (Any("x"),), "mean")), "centred")
_SQUARE = OneOf((Op("Pow", (_CENTRED, Number(2.0))), Op("Mul", (_CENTRED, _CENTRED))))
_SPREAD = Op(
    "Sqrt",
    (Op("Add", (Op("ReduceMean", (_SQUARE,), "variance"), Const("epsilon")), commutative=True),),
)
_PATTERN = OneOf(
    (
        Op("Div", (_CENTRED, _SPREAD)),
        Op("Mul", (_CENTRED, Op("Reciprocal", (_SPREAD,))), commutative=True),
        Op("Mul", (_CENTRED, Op("Div", (Number(1.0), _SPREAD))), commutative=True),
    )
)


def fuse_layernorm(model: ir.Model) -> int:
    """Fuse every decomposed layer normalisation of the main graph; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type not in ("Div", "Mul") or node.domain != "" or node.graph is None:
            continue
        found = fusable(node)
        if isinstance(found, Match):
            _fuse(model.graph, node, found, names)
            count += 1
    return count


def fusable(node: ir.Node) -> Match | Miss:
    """Return the match of a normalisation that ends in ``node``, or why there is none."""
    found = match(_PATTERN, node.outputs[0])
    if isinstance(found, Miss):
        return found
    for name in ("mean", "variance"):
        fault = reduces_last_axis(found.named[name])
        if fault is not None:
            return fault
    if scalar(found["epsilon"]) is None:
        return Miss("epsilon is not one number")
    if row_width(found["x"]) is None or found["x"].dtype is None:
        return Miss("the last dim is unknown")
    return found


def row_width(value: ir.Value) -> int | None:
    """Return the last dim if it is known."""
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return last if isinstance(last, int) else None


def row_parameter(node: ir.Node | None, op_type: str, own: ir.Value, width: int) -> ir.Value | Miss:
    """Return the constant that ``node`` multiplies or adds to each row, or why there is none."""
    if node is None or node.op_type != op_type or node.domain != "":
        return Miss(f"no {op_type} follows")
    other = node.inputs[1] if node.inputs[0] is own else node.inputs[0]
    tensor = constant_tensor(other)
    if other is None or tensor is None or tuple(tensor.shape.numpy()) != (width,):
        return Miss(f"the {op_type} is not with one constant per element of a row")
    return other


def _fuse(graph: ir.Graph, node: ir.Node, found: Match, names: Names) -> None:
    x = found["x"]
    width = row_width(x)
    if width is None:
        return
    nodes = list(found.nodes)
    inputs = [x]
    user = single_user(nodes[-1].outputs[0])
    gamma = row_parameter(user, "Mul", nodes[-1].outputs[0], width)
    if isinstance(gamma, Miss) or user is None:
        dtype = x.dtype or ir.DataType.FLOAT
        ones = np.ones(width, dtype=dtype.numpy())
        inputs.append(add_initializer(graph, ones, names.fresh(f"{node.name}_ones")))
    else:
        nodes.append(user)
        inputs.append(gamma)
    user = single_user(nodes[-1].outputs[0])
    beta = row_parameter(user, "Add", nodes[-1].outputs[0], width)
    if isinstance(beta, ir.Value) and user is not None:
        nodes.append(user)
        inputs.append(beta)
    old = nodes[-1].outputs[0]
    output = value_like(old, names.fresh(f"{old.name}_layernorm"))
    attributes = {"axis": -1, "epsilon": float(scalar(found["epsilon"]) or 0.0)}
    made = make_node(
        "LayerNormalization", inputs, attributes, outputs=[output], name=nodes[-1].name or ""
    )
    replace_nodes(nodes, [made], [old], [output])

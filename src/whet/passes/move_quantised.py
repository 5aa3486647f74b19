"""Movements of data happen to 8-bit integers: DequantizeLinear follows, QuantizeLinear goes ahead.

``move(dequantise(q)) = dequantise(move(q))`` and ``quantise(move(x)) = move(quantise(x))`` with one
scale for the tensor, bit for bit, where ``move`` takes elements to other places or, as MaxPool
does, picks the largest, because both directions keep order. Scales along an axis go with it through
Transpose and MaxPool. Functions of single elements between a movement and a QuantizeLinear go ahead
of the movement first (``lifted.py``). ``quantise(dequantise(q)) = q`` with equal parameters.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, bypass, owner, rank, replace_nodes, single_user
from whet.graph.match import Miss
from whet.passes.lifted import Lifted, lift, liftable
from whet.passes.quantised import BYTES, Linear8, Maker, as_dequantised, as_quantised, typed

MOVES = frozenset(
    [
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Expand",
        "Gather",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
        "MaxPool",
    ]
)
"""Operators of one result that move elements of their first input, or pick the largest.

Concat and Split move elements too: their parts share the parameters of the whole.
"""

_ROUNDS = 64


def move_quantised(model: ir.Model) -> int:
    """Move quantisation around movements in the main graph; return how many times."""
    names = Names(model)
    total = 0
    for _ in range(_ROUNDS):
        count = 0
        for node in list(model.graph):
            if node.graph is not None:
                count += _step(node, names)
        total += count
        if not count:
            break
    return total


def _step(node: ir.Node, names: Names) -> int:
    if node.op_type == "QuantizeLinear":
        return _quantised(node, names)
    if node.op_type in MOVES or node.op_type in ("Concat", "Split"):
        return _behind(node, names)
    return 0


def movable(node: ir.Node) -> list[Linear8] | Miss:
    """Return the dequantised inputs that a movement can take as they are, or why it cannot."""
    moved = list(node.inputs) if node.op_type == "Concat" else list(node.inputs[:1])
    found: list[Linear8] = []
    for value in moved:
        linear = as_dequantised(value)
        if isinstance(linear, Miss):
            return linear
        if linear.source.dtype not in BYTES or not _kept(node, linear):
            return Miss(f"{linear.source.name} has no single scale, or not 8 bits")
        if found and not (found[0].equals(linear) and found[0].source.dtype == linear.source.dtype):
            return Miss(f"the parts of {node.name} have different scales")
        found.append(linear)
    if node.domain != "" or (len(node.outputs) != 1 and node.op_type != "Split"):
        return Miss(f"{node.name} has several results")
    if node.op_type == "MaxPool" and np.any(found[0].scale <= 0):
        return Miss(f"the scale of {found[0].source.name} is not positive")
    return found


def _kept(node: ir.Node, linear: Linear8) -> bool:
    """Tell whether the scales still fit behind a movement."""
    return linear.whole or axis_behind(node, linear) is not None


def axis_behind(node: ir.Node, linear: Linear8) -> int | None:
    """Return where the axis of the scales lies behind a movement, ``None`` if that breaks it up."""
    if node.op_type == "MaxPool":
        return linear.axis if linear.axis <= 1 else None  # the rest it slides over
    if node.op_type != "Transpose":
        return None
    given, dims = node.attributes.get("perm"), rank(linear.source) or 0
    order = [*given.as_ints()] if given is not None else [*range(dims)][::-1]
    return order.index(linear.axis)


def _behind(node: ir.Node, names: Names) -> int:
    """Move the DequantizeLinear in front of a movement behind it."""
    found = movable(node)
    if isinstance(found, Miss):
        return 0
    first = found[0]
    make = Maker(owner(node), names, [])
    kind = first.source.dtype or ir.DataType.UINT8
    moved = [typed(old, names.fresh(f"{old.name}_bytes"), kind) for old in node.outputs]
    rest = [] if node.op_type == "Concat" else list(node.inputs[1:])
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    make.several(node.op_type, [*(f.source for f in found), *rest], moved, **attributes)
    along = {} if first.whole else {"axis": axis_behind(node, first)}
    outputs = []
    for old, part in zip(node.outputs, moved, strict=True):
        output = typed(old, names.fresh(f"{old.name}_float"), ir.DataType.FLOAT)
        parameters = [part, *first.node.inputs[1:]]
        outputs.append(make.node("DequantizeLinear", parameters, output, **along))
    replace_nodes([node], make.nodes, list(node.outputs), outputs)
    return 1


def _quantised(node: ir.Node, names: Names) -> int:
    linear = as_quantised(node)
    if isinstance(linear, Miss) or not linear.whole or linear.scale <= 0:
        return 0
    inner = as_dequantised(linear.source)
    if isinstance(inner, Linear8):
        same = inner.source.dtype == node.outputs[0].dtype and inner.equals(linear)
        return int(same and bypass(node, node.outputs[0], inner.source))
    move = linear.source.producer()
    if move is None or single_user(linear.source) is not node:
        return 0
    lifted = liftable(move)
    if isinstance(lifted, Lifted):
        lift(lifted, names)
        return 1
    return _in_front(move, linear, names) if _movable_up(move, node) else 0


def _movable_up(move: ir.Node, node: ir.Node) -> bool:
    if move.domain != "" or len(move.outputs) != 1 or node.outputs[0].dtype not in BYTES:
        return False
    if move.op_type == "Concat":
        return all(isinstance(as_dequantised(v), Linear8) for v in move.inputs)
    source = move.inputs[0] if move.op_type in MOVES else None
    produced = source is not None and source.producer() is not None
    grows = move.op_type in ("Expand", "Tile", "Gather")
    return produced and not grows and single_user(move.inputs[0]) is move  # type: ignore[arg-type]


def _in_front(move: ir.Node, linear: Linear8, names: Names) -> int:
    """Move a QuantizeLinear behind a movement in front of it."""
    node = linear.node
    old = node.outputs[0]
    make = Maker(owner(node), names, [])
    kind = old.dtype or ir.DataType.UINT8
    count = len(move.inputs) if move.op_type == "Concat" else 1
    parts = []
    for value in move.inputs[:count]:
        assert value is not None, "a movement has its first input"
        part = typed(value, names.fresh(f"{value.name}_bytes"), kind)
        attributes = {n: a.value for n, a in node.attributes.items()}
        parts.append(make.node("QuantizeLinear", [value, *node.inputs[1:]], part, **attributes))
    output = typed(old, names.fresh(f"{old.name}_moved"), kind)
    attributes = {name: attribute.value for name, attribute in move.attributes.items()}
    make.node(move.op_type, [*parts, *move.inputs[count:]], output, **attributes)
    replace_nodes([move, node], make.nodes, [old], [output])
    return 1

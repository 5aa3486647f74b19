"""Functions of single elements in front of a QuantizeLinear go ahead of movements.

``f(move(x)) = move(f(x))`` bit for bit, where what ``f`` reads besides ``x`` is one number, or one
for each place along the last axes whose place in front of the movement is known. The QuantizeLinear
can follow then, so that a product in front of all of it ends in bytes: exporters scale queries and
keys behind the transposition of heads, and smoothing multiplies the result of attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, owner, rank, replace_nodes, single_user, static_shape
from whet.graph.match import Miss
from whet.passes.quantised import SMALL, Array, Maker, typed

_BOTH = frozenset(["Mul", "Div", "Add", "Sub"])
_SINGLE = frozenset(["Relu"])
_MOVES = frozenset(["Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"])
"""Movements that keep the number of elements."""


@dataclass(frozen=True, slots=True)
class Lifted:
    """A function and the movement in front of it.

    Attributes:
        node: the function.
        move: the movement.
        place: which input of the function the movement makes.
        other: what else the function reads, as it stands in front of the movement, or ``None``.
    """

    node: ir.Node
    move: ir.Node
    place: int
    other: Array | None


def liftable(node: ir.Node) -> Lifted | Miss:
    """Return a function of single elements that can go ahead of a movement, or why it cannot."""
    if node.domain != "" or node.op_type not in _BOTH | _SINGLE:
        return Miss(f"{node.op_type} is no function of single elements")
    places = [k for k, value in enumerate(node.inputs) if constant(value) is None]
    if len(places) != 1 or node.outputs[0].dtype not in (ir.DataType.FLOAT, *SMALL):
        return Miss(f"{node.name} reads several values, or no floats")
    move = _movement(node, node.inputs[places[0]])
    if isinstance(move, Miss) or node.op_type in _SINGLE:
        return move if isinstance(move, Miss) else Lifted(node, move, 0, None)
    other = _in_front(constant(node.inputs[1 - places[0]]), move)
    if other is None:
        return Miss(f"a constant of {node.name} has no place in front of {move.name}")
    return Lifted(node, move, places[0], other)


def _movement(node: ir.Node, value: ir.Value | None) -> ir.Node | Miss:
    """Return the movement that makes what a function alone reads."""
    move = None if value is None else value.producer()
    if move is None or move.op_type not in _MOVES or move.domain != "":
        return Miss(f"nothing moves what {node.name} reads")
    source = move.inputs[0]
    if single_user(move.outputs[0]) is not node or source is None or source.producer() is None:
        return Miss(f"others read {move.outputs[0].name}, or it is given")
    if rank(node.outputs[0]) != rank(move.outputs[0]):
        return Miss(f"{node.name} adds dimensions")
    return move


def lift(found: Lifted, names: Names) -> None:
    """Let a function go ahead of a movement."""
    node, move, old = found.node, found.move, found.node.outputs[0]
    source = move.inputs[0]
    assert source is not None, "a movement has its first input"
    make = Maker(owner(node), names, [])
    inputs: list[ir.Value | None] = [source]
    if found.other is not None:
        other = make.constant(found.other, f"{node.name}_in_front")
        inputs = [source, other] if found.place == 0 else [other, source]
    kind = old.dtype or ir.DataType.FLOAT
    value = typed(source, names.fresh(f"{old.name}_in_front"), kind)
    make.node(node.op_type, inputs, value)
    output = typed(old, names.fresh(f"{old.name}_moved"), kind)
    attributes = {name: attribute.value for name, attribute in move.attributes.items()}
    make.node(move.op_type, [value, *move.inputs[1:]], output, **attributes)
    replace_nodes([node, move], make.nodes, [old], [output])


def _in_front(array: Array | None, move: ir.Node) -> Array | None:
    """Return a constant that is broadcast to a movement's result, for its input."""
    before, after = static_shape(move.inputs[0]), static_shape(move.outputs[0])
    if array is None or array.size == 1:
        return array if array is None else array.reshape(())
    if before is None or after is None or array.ndim > len(after):
        return None
    full = array.reshape(*[1] * (len(after) - array.ndim), *array.shape)
    if move.op_type == "Transpose":
        given = move.attributes.get("perm")
        order = [*range(len(before))][::-1] if given is None else [*given.as_ints()]
        return full.transpose(np.argsort(order))
    return _reshaped(full, before, after)


def _reshaped(array: Array, before: tuple[int, ...], after: tuple[int, ...]) -> Array | None:
    """Return a constant along the last axes, for the shape in front of a Reshape."""
    varies = next(k for k, n in enumerate(array.shape) if n != 1)
    count = int(np.prod(after[varies:]))
    for k in range(len(before) + 1):
        if int(np.prod(before[k:])) == count:
            whole = np.broadcast_to(array[(0,) * varies], after[varies:])
            return np.ascontiguousarray(whole).reshape(before[k:])
    return None

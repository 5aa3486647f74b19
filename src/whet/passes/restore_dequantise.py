"""Weights that a model itself turns from integers into floats become a DequantizeLinear.

torchao and NNCF export ``Mul(Sub(Cast(w), z), s)`` or ``Sub(Mul(Cast(w), s), s z)``, with one scale
for each channel, or for each of the blocks that a Reshape behind joins. Folded, such weights would
be floats; a DequantizeLinear keeps them as they are stored, and products of dequantised operands
multiply integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, ints, owner, replace_nodes, single_user
from whet.graph.match import Miss
from whet.passes.quantised import Array, Maker, rewrite_all, typed

_STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
_PRODUCTS = frozenset(["MatMul", "Gemm", "Conv", "ConvTranspose", "Gather"])
_ROUNDING = 1e-5
"""Relative difference that rounding explains."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Integer weights and the nodes that make floats of them.

    Attributes:
        nodes: the nodes, in order.
        weights: the integers, in the shape that the last node gives.
        dtype: their type.
        scale: of rank 0, of rank 1 along ``axis``, or of blocks along it.
        zero: zero points of the same shape, or ``None``.
        axis: of the weights.
        block: weights along the axis that share a scale, 0 if they do not lie in blocks.
    """

    nodes: tuple[ir.Node, ...]
    weights: Array
    dtype: ir.DataType
    scale: Array
    zero: Array | None
    axis: int
    block: int


def restore_dequantise(model: ir.Model) -> int:
    """Write every such chain of the main graph as a DequantizeLinear; return how many."""
    return rewrite_all(model, stored_weights, _rewrite)


def stored_weights(node: ir.Node) -> Stored | Miss:
    """Return the weights that a Cast begins to turn into floats, or why it does not."""
    if node.domain != "" or node.op_type != "Cast" or node.outputs[0].dtype != ir.DataType.FLOAT:
        return Miss(f"{node.op_type} makes no floats of integers")
    source = node.inputs[0]
    stored = _integers(source)
    if stored is None or source is None or source.dtype not in _STORED:
        return Miss(f"{node.name} reads no constant integers")
    nodes = [node]
    scale: Array = np.ones((), np.float32)
    zero: Array = np.zeros((), np.float32)
    while (found := _next(nodes[-1])) is not None:
        if found.op_type == "Reshape":
            nodes.append(found)
            break
        array = constant(found.inputs[1])
        if array is None or array.ndim != stored.ndim or array.dtype != np.float32:
            break
        if found.op_type == "Mul":
            scale = scale * array
        else:
            zero = zero + array / scale
        nodes.append(found)
    return _parameters(tuple(nodes), stored, scale, zero)


def _integers(value: ir.Value | None) -> Array | None:
    """Return a constant, perhaps reshaped."""
    array, node = constant(value), None if value is None else value.producer()
    if array is not None or node is None or node.op_type != "Reshape":
        return array
    stored, shape = constant(node.inputs[0]), ints(node.inputs[1])
    return None if stored is None or shape is None or 0 in shape else stored.reshape(shape)


def _next(node: ir.Node) -> ir.Node | None:
    """Return the scale, the zero point or the Reshape that alone reads a node."""
    user = single_user(node.outputs[0])
    if user is None or user.domain != "" or user.op_type not in ("Mul", "Sub", "Reshape"):
        return None
    return user if user.inputs[0] is node.outputs[0] else None


def _parameters(
    nodes: tuple[ir.Node, ...], stored: Array, scale: Array, zero: Array
) -> Stored | Miss:
    value = nodes[-1].outputs[0]
    if not any(_multiplies(use.node, use.idx) for use in value.uses()):
        return Miss(f"no product reads {value.name}")
    dtype = nodes[0].inputs[0].dtype if nodes[0].inputs[0] is not None else None
    assert dtype is not None, "the integers have a type"
    whole = np.rint(zero)
    limits = (dtype.min, dtype.max)
    fits = np.all(whole >= limits[0]) and np.all(whole <= limits[1])
    if not fits or np.any(np.abs(zero - whole) > _ROUNDING * (1 + np.abs(whole))):
        return Miss(f"a zero point of {nodes[0].name} is no integer of the type")
    points = np.broadcast_to(whole, scale.shape) if np.any(whole) else None
    wide = [k for k, n in enumerate(scale.shape) if n != 1]
    if nodes[-1].op_type == "Reshape":
        return _blocks(nodes, stored, dtype, scale, points)
    if len(wide) > 1 or (wide and scale.shape[wide[0]] != stored.shape[wide[0]]):
        return Miss(f"the scales of {nodes[0].name} lie along several axes")
    axis = wide[0] if wide else 0
    shape = (-1,) if wide else ()
    flat = None if points is None else points.reshape(shape)
    return Stored(nodes, stored, dtype, scale.reshape(shape), flat, axis, 0)


def _multiplies(node: ir.Node, place: int) -> bool:
    """Tell whether a node multiplies an input with others, perhaps transposed."""
    if node.op_type == "Transpose":
        return any(_multiplies(use.node, use.idx) for use in node.outputs[0].uses())
    return node.domain == "" and node.op_type in _PRODUCTS and place <= 1


def _blocks(
    nodes: tuple[ir.Node, ...],
    stored: Array,
    dtype: ir.DataType,
    scale: Array,
    points: Array | None,
) -> Stored | Miss:
    """Return weights [rows, blocks, block] as the matrix that a Reshape makes of them."""
    shape = ints(nodes[-1].inputs[1])
    if stored.ndim != 3 or shape is None or len(shape) != 2:
        return Miss(f"{nodes[-1].name} does not join blocks")
    rows, blocks, block = stored.shape
    if scale.shape != (rows, blocks, 1) or shape[0] not in (rows, -1):
        return Miss(f"the scales of {nodes[0].name} are not those of blocks")
    if shape[1] not in (blocks * block, -1):
        return Miss(f"{nodes[-1].name} does not join blocks")
    flat = None if points is None else points[:, :, 0]
    matrix = stored.reshape(rows, blocks * block)
    return Stored(nodes, matrix, dtype, scale[:, :, 0], flat, 1, block)


def _rewrite(found: Stored, names: Names) -> None:
    old = found.nodes[-1].outputs[0]
    make = Maker(owner(found.nodes[0]), names, [])
    kind = found.dtype.numpy()
    inputs = [
        make.constant(found.weights.astype(kind), f"{old.name}_integers"),
        make.constant(found.scale.astype(np.float32), f"{old.name}_scale"),
    ]
    if found.zero is not None:
        inputs.append(make.constant(found.zero.astype(kind), f"{old.name}_zero"))
    attributes = {"axis": found.axis} if found.scale.ndim else {}
    if found.block:
        attributes["block_size"] = found.block
    output = typed(old, names.fresh(f"{old.name}_float"), ir.DataType.FLOAT)
    make.node("DequantizeLinear", list(inputs), output, **attributes)
    replace_nodes([*reversed(found.nodes)], make.nodes, [old], [output])

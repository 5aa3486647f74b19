"""One view of Conv, ConvTranspose, Gemm and MatMul with constant weights.

All compute ``y = W·x + b`` for each output channel, so that a scale ``s`` and a shift ``t`` per
channel that follow them go into the constants: ``s·(W·x + b) + t = (s·W)·x + (s·b + t)``.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    constant,
    constant_array,
    constant_tensor,
    owner,
    rank,
    single_user,
    value_like,
)
from whet.graph.match import Miss

LINEAR_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Array = np.ndarray[Any, Any]


class Linear(msgspec.Struct, frozen=True):
    """A node with constant weights and an output read only once.

    Attributes:
        node: the node itself.
        weight: its weights.
        bias: one number per output channel in float64, with Gemm's ``beta`` applied.
        channels: number of output channels.
        axis: the axis of the channels in the output: 1, or -1 for the last.
        groups: convolution groups.
    """

    node: ir.Node
    weight: ir.Value
    bias: Array
    channels: int
    axis: int
    groups: int


def as_linear(value: ir.Value | None) -> Linear | Miss:
    """Return the linear node behind ``value``, or why it cannot absorb what follows it."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type not in LINEAR_OPS or node.domain != "":
        return Miss("the input does not come from a Conv, ConvTranspose, Gemm or MatMul")
    if single_user(value) is None:
        return Miss(f"{value.name} is read more than once or a graph output")
    weight = node.inputs[1]
    fault = _weight_fault(node)
    if weight is None or fault is not None:
        return fault or Miss(f"{node.name} has no weights")
    groups = _int(node, "group", 1)
    shape = tuple(constant_array(weight).shape)
    channels = _channels(node, shape, groups)
    bias = _bias(node, channels)
    if isinstance(bias, Miss):
        return bias
    axis = -1 if node.op_type in ("Gemm", "MatMul") else 1
    return Linear(node, weight, bias, channels, axis, groups)


def _weight_fault(node: ir.Node) -> Miss | None:
    tensor = constant_tensor(node.inputs[1])
    if tensor is None:
        return Miss(f"the weights of {node.name} are not constant")
    if not tensor.dtype.is_floating_point():
        return Miss(f"the weights of {node.name} are not floating-point numbers")
    if node.op_type == "MatMul" and len(tensor.shape) != 2:
        return Miss(f"the weights of {node.name} have rank {len(tensor.shape)}, need 2")
    return None


def rescaled(
    linear: Linear, scale: Array, shift: Array, replaced: ir.Node, names: Names
) -> ir.Node | Miss:
    """Build the linear node that also does the scale and shift of ``replaced``.

    Args:
        linear: the node in front.
        scale: one factor per channel, float64.
        shift: one summand per channel, float64.
        replaced: the node behind, whose output the new node computes.
        names: source of unused names.
    """
    node, output = linear.node, replaced.outputs[0]
    bias = linear.bias * scale + shift
    needs_bias = bool(bias.any()) or len(node.inputs) > 2
    if node.op_type == "MatMul" and needs_bias and rank(output) != 2:
        return Miss(f"MatMul of rank {rank(output)} has no bias input")
    graph = owner(node)
    stem = linear.weight.name or node.name or "weight"
    inputs = [node.inputs[0], linear.weight]
    if not bool((scale == 1).all()):
        inputs[1] = _add(
            graph, _scaled_weight(linear, scale), linear, names.fresh(f"{stem}_scaled")
        )
    if needs_bias:
        inputs.append(_add(graph, bias, linear, names.fresh(f"{node.name}_bias")))
    op_type = "Gemm" if node.op_type == "MatMul" and needs_bias else node.op_type
    attributes = {k: a for k, a in node.attributes.items() if k != "beta"}
    made = ir.Node(
        "",
        op_type,
        inputs,
        list(attributes.values()),
        outputs=[value_like(output, names.fresh(f"{output.name}_linear"))],
        name=node.name,
    )
    return made


def channel_vector(value: ir.Value | None, linear: Linear, out_rank: int) -> Array | Miss:
    """Read a constant that has one number per output channel, or one for all, as float64."""
    array = constant(value)
    if array is None or array.dtype == object:
        return Miss("the other input is not constant")
    if array.ndim > out_rank:
        return Miss("the constant broadcasts the output")
    numbers = array.astype(np.float64)
    if array.size == 1:
        return np.full(linear.channels, numbers.reshape(()).item())
    shape = (1,) * (out_rank - array.ndim) + array.shape
    wanted = [1] * out_rank
    wanted[linear.axis] = linear.channels
    if shape != tuple(wanted):
        return Miss(f"the constant has shape {list(array.shape)}, not one number per channel")
    return numbers.reshape(-1)


def _channels(node: ir.Node, shape: tuple[int, ...], groups: int) -> int:
    if node.op_type == "ConvTranspose":
        return shape[1] * groups
    if node.op_type == "Conv":
        return shape[0]
    return shape[0] if _int(node, "transB", 0) else shape[1]


def _bias(node: ir.Node, channels: int) -> Array | Miss:
    value = node.inputs[2] if len(node.inputs) > 2 and node.op_type != "MatMul" else None
    if value is None:
        return np.zeros(channels)
    array = constant(value)
    if array is None:
        return Miss(f"the bias of {node.name} is not constant")
    if array.size not in (1, channels) or (array.size > 1 and array.shape[-1] != channels):
        return Miss(f"the bias of {node.name} has shape {list(array.shape)}")
    beta = node.attributes.get("beta")
    factor = 1.0 if beta is None else beta.as_float()
    return np.broadcast_to(array.astype(np.float64).reshape(-1) * factor, (channels,)).copy()


def _scaled_weight(linear: Linear, scale: Array) -> Array:
    wide = constant_array(linear.weight).astype(np.float64)
    kind = linear.node.op_type
    if kind == "ConvTranspose":
        grouped = wide.reshape(linear.groups, -1, *wide.shape[1:])
        factors = scale.reshape(linear.groups, 1, -1, *(1,) * (wide.ndim - 2))
        return (grouped * factors).reshape(wide.shape)
    if kind == "Conv" or _int(linear.node, "transB", 0):
        return wide * scale.reshape(-1, *(1,) * (wide.ndim - 1))
    return wide * scale


def _add(graph: ir.Graph, array: Array, linear: Linear, name: str) -> ir.Value:
    dtype = constant_array(linear.weight).dtype
    return add_initializer(graph, array.astype(dtype), name)


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()

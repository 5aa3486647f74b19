"""The layers of a graph that can be quantised, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant_array, constant_tensor, ints, rank, single_user, static_shape
from whet.graph.match import Miss
from whet.kernel.integer_attention import QUAD_WORDS
from whet.quantize.config import QuantizeConfig
from whet.quantize.grid import LIMITS, Grid

MOVERS = frozenset({
    "DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth",
    "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators whose results are elements of their first input: both have one grid."""

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply matrices, or are quantised as if they did."""

POINTWISE = frozenset({
    "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Sigmoid",
    "Swish", "Tanh",
})  # fmt: skip
"""Operators that run on the registers of what produces their input."""

FUNCTIONS = POINTWISE - {"Clip", "LeakyRelu", "Relu"}
"""Those that take longer than a look-up in a table of all bytes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that computes with quantised operands.

    Attributes:
        name: the node.
        op: its operator.
        activations: positions of the inputs that are activations.
        weight: position of the constant operand, if it has one.
        axis: axis of its output channels; ``None`` if there is none. Groups of a ConvTranspose
            share what lies along it, or it is that of the groups.
        bias: position of a constant bias that becomes int32, if there is one.
    """

    name: str
    op: str
    activations: tuple[int, ...]
    weight: int | None = None
    axis: int | None = None
    bias: int | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A product that is not quantised."""

    name: str
    op: str
    why: str


def find_layers(
    model: ir.Model, config: QuantizeConfig
) -> tuple[tuple[Layer, ...], tuple[Skipped, ...]]:
    """Return the layers of an optimised graph in its order, and the products that are none."""
    found: dict[str, Layer] = {}
    skipped: list[Skipped] = []
    for node in model.graph.all_nodes():
        inside = node.graph is not model.graph
        if node.op_type in _DONE:
            skipped.append(Skipped(node.name or "", node.op_type, "it is quantised already"))
        finder = _FINDERS.get(node.op_type) if node.domain == "" else None
        if finder is None or (inside and node.op_type not in PRODUCTS):
            continue
        layer = finder(node, config)
        if inside and isinstance(layer, Layer) and layer.weight is None:
            layer = layer if config.activation_products else Miss(_BOTH_FACTORS)
        if node.op_type in config.skip_ops:
            layer = Miss("its operator is left alone")
        if isinstance(layer, Layer) and layer.weight is not None:
            layer = layer if _is_finite(node.inputs[layer.weight]) else Miss(_NOT_FINITE)
        if isinstance(layer, Layer):
            found[layer.name] = layer
        else:
            skipped.append(Skipped(node.name or "", node.op_type, layer.why))
    _add_followers(model, found, config)
    order = [node.name for node in model.graph.all_nodes() if node.name in found]
    return tuple(found[name] for name in order if name), tuple(skipped)


def is_float32(value: ir.Value | None) -> bool:
    """Tell whether a value is float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a value is known when the model is compiled."""
    return constant_tensor(value) is not None


def root_of(value: ir.Value) -> ir.Value:
    """Return the value whose elements a value consists of, before operators that only move them."""
    node = value.producer()
    while node is not None and is_mover(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def is_mover(node: ir.Node) -> bool:
    """Tell whether a node's only result consists of elements of its first input."""
    moves = node.domain == "" and node.op_type in MOVERS and len(node.outputs) == 1
    return moves and not is_constant(node.inputs[0]) and is_float32(node.inputs[0])


def bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the node that adds a constant bias to a product, and its input; ``None`` for none.

    It is the product itself, or the sum that alone reads a MatMul.
    """
    if node.op_type != "MatMul":
        position = _bias(node, 2)
        return None if position is None else (node, position)
    after = single_user(node.outputs[0])
    if after is None or after.op_type != "Add" or after.domain:
        return None
    position = 1 if after.inputs[0] is node.outputs[0] else 0
    bias, weight = static_shape(after.inputs[position]), static_shape(node.inputs[1])
    fits = bias is not None and weight is not None and bias == weight[-1:] and len(weight) == 2
    return (after, position) if fits and is_constant(after.inputs[position]) else None


def given_grid(value: ir.Value) -> Grid | None:
    """Return the grid that the model itself has rounded a value to, if it is one for all of it."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or is_constant(node.inputs[0]):
        return None
    stored, scale, zero = (*node.inputs, None)[:3]
    steps, offset = constant_tensor(scale), constant_tensor(zero)
    kind = "" if stored is None or stored.dtype is None else stored.dtype.numpy().name
    known = steps is not None and steps.size == 1 and (zero is None or offset is not None)
    if kind not in LIMITS or steps is None or not known or not is_float32(value):
        return None
    middle = 0 if offset is None else int(offset.numpy().astype(np.int64).reshape(()))
    return Grid(steps.numpy().reshape(()), np.asarray(middle, np.int32), kind)


_BOTH_FACTORS = "both factors are activations; activation_products includes it"
_NOT_FINITE = "its weight has NaN or infinity"


def _is_finite(value: ir.Value | None) -> bool:
    return bool(np.isfinite(constant_array(value)).all())


def _needs(node: ir.Node, weight: int) -> Miss | None:
    first = node.inputs[0]
    if is_constant(first):
        return Miss("its first input is constant")
    if first is None or not is_float32(first):
        kind = "" if first is None or first.dtype is None else first.dtype.name.lower()
        return Miss(f"its first input is {kind or 'unknown'}, not float32")
    given = node.inputs[weight]
    if not is_constant(given):
        behind = None if given is None else given.producer()
        done = behind is not None and behind.op_type == "DequantizeLinear"
        return Miss("its weight is quantised already" if done else "its weight is not constant")
    if not is_float32(given):
        return Miss("its weight is not float32")
    if 0 in (static_shape(given) or ()):
        return Miss("its weight is empty")
    return None


def _bias(node: ir.Node, position: int) -> int | None:
    present = len(node.inputs) > position and is_constant(node.inputs[position])
    return position if present and rank(node.inputs[position]) == 1 else None


def _conv(node: ir.Node, config: QuantizeConfig) -> Layer | Miss:
    missing = _needs(node, 1)
    if missing is not None:
        return missing
    axis = 0 if node.op_type == "Conv" else _transposed_axis(node)
    return Layer(node.name or "", node.op_type, (0,), 1, axis, _bias(node, 2))


def _transposed_axis(node: ir.Node) -> int:
    """Return the axis of scales of a ConvTranspose, whose weight is (inputs, outputs a group, …).

    One axis cannot tell the channels of one group from those of another: groups share the scale of
    each channel. Where a group has one input, it has a scale of its own, for all of its channels.
    """
    shape = static_shape(node.inputs[1]) or (0,)
    return 0 if 1 < shape[0] == node.attributes.get_int("group", 1) else 1


def _gemm(node: ir.Node, config: QuantizeConfig) -> Layer | Miss:
    missing = _needs(node, 1)
    if missing is not None:
        return missing
    factors = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
    if factors != (1.0, 1.0) or node.attributes.get_int("transA", 0) != 0:
        return Miss("it scales or transposes its operands")
    axis = 0 if node.attributes.get_int("transB", 0) != 0 else 1
    return Layer(node.name or "", node.op_type, (0,), 1, axis, _bias(node, 2))


def _in_integer_attention(node: ir.Node) -> bool:
    """Tell whether a product is one of attention that a kernel does in integers from end to end."""
    left = node.inputs[0]
    behind = None if left is None else left.producer()
    if behind is not None and behind.op_type == "Softmax":
        return 0 < _last(left) <= _MOST_KEYS
    reached = node
    while reached.op_type in ("MatMul", *_BETWEEN):
        user = single_user(reached.outputs[0])
        if user is None or user.op_type not in ("Softmax", *_BETWEEN):
            return False
        reached = user
    depth = _last(left)
    return depth > 0 and depth % QUAD_WORDS == 0 and 0 < _last(node.outputs[0]) <= _MOST_KEYS


_BETWEEN = ("Add", "Div", "Mul", "Where")
"""Operators between a product and the softmax of attention: scale and mask."""

_MOST_KEYS = 512
"""Of more keys many probabilities are less than one of 255 steps."""


def _last(value: ir.Value | None) -> int:
    """Return the last extent of a value, 0 if it is not known."""
    shape = None if value is None else value.shape
    last = shape[-1] if shape else 0
    return last if isinstance(last, int) else 0


def _matmul(node: ir.Node, config: QuantizeConfig) -> Layer | Miss:
    wanted = config.activation_products
    if wanted is None and config.activations not in ("uint8", "int8"):
        wanted = False
    if not is_constant(node.inputs[0]) and not is_constant(node.inputs[1]):
        if not (_in_integer_attention(node) if wanted is None else wanted):
            return Miss(_BOTH_FACTORS)
        if not all(is_float32(v) for v in node.inputs):
            return Miss("its factors are not float32")
        return Layer(node.name or "", node.op_type, (0, 1))
    missing = _needs(node, 1)
    if missing is not None:
        return missing
    axis = 1 if rank(node.inputs[1]) == 2 else None
    return Layer(node.name or "", node.op_type, (0,), 1, axis)


def _gather(node: ir.Node, config: QuantizeConfig) -> Layer | Miss:
    if not is_constant(node.inputs[0]) or not is_float32(node.inputs[0]):
        return Miss("its table is not constant")
    if not config.embeddings:
        return Miss("embeddings are left alone")
    shape = static_shape(node.inputs[0])
    if shape is None or len(shape) != 2 or shape[1] < 8:
        return Miss("it gathers no rows of a table")
    if node.attributes.get_int("axis", 0) != 0:
        return Miss("it gathers no rows of a table")
    return Layer(node.name or "", node.op_type, (), 0, 0)


_FINDERS: dict[str, Callable[[ir.Node, QuantizeConfig], Layer | Miss]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _gather,
}
"""Products and tables."""

_DONE = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
"""Products that others quantised."""


def _add_followers(model: ir.Model, found: dict[str, Layer], config: QuantizeConfig) -> None:
    """Add sums, concatenations and pools that lie between quantised layers; functions if asked.

    From the outputs backwards, as one becomes a follower because of what reads it.
    """
    for node in reversed(list(model.graph)):
        if node.domain or node.op_type in config.skip_ops or node.name in found:
            continue
        places = (0,) if config.functions and node.op_type in FUNCTIONS else _places(node)
        operands = [node.inputs[p] for p in places]
        if not places or any(not is_float32(v) or is_constant(v) for v in operands):
            continue
        if _is_wanted(node.outputs[0], found) and any(_from_layer(v) for v in operands):
            found[node.name or ""] = Layer(node.name or "", node.op_type, places)


def _places(node: ir.Node) -> tuple[int, ...]:
    """Return the inputs of a possible follower that are activations."""
    finder = _FOLLOWERS.get(node.op_type)
    return () if finder is None else finder(node)


def _pair(node: ir.Node) -> tuple[int, ...]:
    left, right = node.inputs
    return (0, 1) if rank(left) == rank(right) and (rank(left) or 0) >= 2 else ()


def _all_inputs(node: ir.Node) -> tuple[int, ...]:
    return tuple(range(len(node.inputs)))


def _mean(node: ir.Node) -> tuple[int, ...]:
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    return (0,) if rank(node.inputs[0]) == 4 and axes and set(axes) <= {2, 3, -1, -2} else ()


_FOLLOWERS: dict[str, Callable[[ir.Node], tuple[int, ...]]] = {
    "Add": _pair,
    "Mul": _pair,
    "Concat": _all_inputs,
    "AveragePool": lambda node: (0,),
    "GlobalAveragePool": lambda node: (0,),
    "ReduceMean": _mean,
    "Resize": lambda node: (0,),
}
"""Operators that keep data in 8 bits where their neighbours do: which inputs are activations."""


QUANTISED = frozenset({*_FINDERS, *_FOLLOWERS})
"""Operators that become layers."""


def _is_wanted(value: ir.Value, found: dict[str, Layer]) -> bool:
    """Tell whether a layer reads a value, or what movers and pointwise operators make of it."""
    for use in value.uses():
        node = use.node
        layer = found.get(node.name or "")
        if layer is not None and use.idx in layer.activations:
            return True
        passes = is_mover(node) or (node.domain == "" and node.op_type in POINTWISE)
        if passes and use.idx == 0 and _is_wanted(node.outputs[0], found):
            return True
    return False


def _from_layer(value: ir.Value | None) -> bool:
    """Tell whether a value comes from a product or a follower, through movers and the like."""
    node = None if value is None else value.producer()
    while node is not None and (node.op_type in MOVERS or node.op_type in POINTWISE):
        above = node.inputs[0]
        node = None if above is None else above.producer()
    return node is not None and (node.op_type in _FINDERS or node.op_type in _FOLLOWERS)

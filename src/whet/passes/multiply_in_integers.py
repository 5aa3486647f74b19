"""Products of dequantised operands become products of integers.

``sum s_x (x - p) s_w (w - q) + b = s_x s_w (sum (x - p)(w - q) + b / (s_x s_w))``: a ConvInteger or
MatMulInteger, whose sums are exact, an integer bias where the model has one in that scale, and one
DequantizeLinear of the sums behind it. What follows, activations, additions and QuantizeLinear,
runs in the epilogue of the product like that of any other. Sums of a model in float16 or bfloat16
are dequantised in float32 and rounded once. A depthwise convolution sums within a
channel, so that its input may have a scale for each, and a zero point (``channel_zeros.py``).
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
from msgspec.structs import replace

from whet.graph.edit import Names, constant, owner, rank, replace_nodes, static_shape
from whet.graph.match import Miss
from whet.passes.channel_zeros import correction, has_channel_zeros, padded, zeros_obstacle
from whet.passes.quantised import (
    BYTES,
    SMALL,
    Array,
    Linear8,
    Maker,
    as_dequantised,
    rewrite_all,
    typed,
)

_WEIGHTS = {
    ir.DataType.INT8: ir.DataType.INT8,
    ir.DataType.UINT8: ir.DataType.UINT8,
    ir.DataType.INT4: ir.DataType.INT8,
    ir.DataType.UINT4: ir.DataType.UINT8,
    ir.DataType.INT2: ir.DataType.INT8,
    ir.DataType.UINT2: ir.DataType.UINT8,
}
"""The 8-bit type in which weights of a type are multiplied."""

_SAME_SCALE = 1e-5
"""Relative difference of a bias's scale that rounding explains."""


class Integers(msgspec.Struct, frozen=True):
    """A product that integers can do.

    Attributes:
        node: Conv, MatMul or Gemm.
        x: its first operand.
        w: its second operand.
        scale: of the sums; along ``axis`` if it has rank 1.
        axis: the channels of the result; -1 for its last axis.
        bias: added to the sums, or ``None``.
        addend: added to the dequantised sums, or ``None``.
    """

    node: ir.Node
    x: Linear8
    w: Linear8
    scale: Array
    axis: int
    bias: ir.Value | None
    addend: ir.Value | None


def multiply_in_integers(model: ir.Model) -> int:
    """Rewrite every product that integers can do, those in bodies too; return how many."""
    return rewrite_all(model, integer_form, _rewrite, bodies=True)


def integer_form(node: ir.Node) -> Integers | Miss:
    """Return how a node is done in integers, or why it stays a product of floats."""
    if node.domain != "" or node.op_type not in ("Conv", "MatMul", "Gemm"):
        return Miss(f"{node.op_type} has no form in integers")
    x, w = (as_dequantised(value, small=True) for value in node.inputs[:2])
    if isinstance(x, Miss):
        return x
    if isinstance(w, Miss):
        return w
    reason = _obstacle(node, x, w)
    if reason is not None:
        return reason
    return _conv(node, x, w) if node.op_type == "Conv" else _matrices(node, x, w)


def _obstacle(node: ir.Node, x: Linear8, w: Linear8) -> Miss | None:
    if not x.whole and not _within_channels(node, x, w):
        return Miss(f"{x.source.name} has a scale for each channel, which is summed over")
    if has_channel_zeros(x) and (obstacle := zeros_obstacle(node, x, w)) is not None:
        return obstacle
    if x.source.dtype not in BYTES or w.source.dtype not in _WEIGHTS:
        return Miss(f"{node.name} multiplies {x.source.dtype} by {w.source.dtype}")
    if node.outputs[0].dtype not in (ir.DataType.FLOAT, *SMALL):
        return Miss(f"the result of {node.name} is {node.outputs[0].dtype}")
    return None


def _within_channels(node: ir.Node, x: Linear8, w: Linear8) -> bool:
    """Tell whether every sum is over one channel, and the scales of the input run along those."""
    shape = static_shape(w.source)
    return node.op_type == "Conv" and x.axis == 1 and shape is not None and shape[1] == 1


def _conv(node: ir.Node, x: Linear8, w: Linear8) -> Integers | Miss:
    if not w.whole and w.axis != 0:
        return Miss(f"the scales of {w.source.name} are not along its filters")
    if not x.whole:  # filter o reads the channel o // (filters of a group)
        filters = (static_shape(w.source) or [0])[0]
        zero = x.zero if has_channel_zeros(x) else x.zero[0]
        x = replace(x, scale=np.repeat(x.scale, filters // x.scale.size), zero=zero)
    return _with_bias(node, x, w, (1, node.inputs[2] if len(node.inputs) > 2 else None))


def _matrices(node: ir.Node, x: Linear8, w: Linear8) -> Integers | Miss:
    dims, known, result = rank(w.source), rank(x.source), rank(node.outputs[0])
    if dims is None or dims < 2 or (known is not None and known < 2):
        return Miss(f"{node.name} multiplies a vector")
    gemm = node.op_type == "Gemm"
    column = 0 if gemm and _flag(node, "transB") else dims - 1
    if not w.whole and (w.axis != column or dims != 2):
        return Miss(f"the scales of {w.source.name} are not along its columns")
    addend = node.inputs[2] if gemm and len(node.inputs) > 2 else None
    if gemm and addend is not None and _number(node, "beta") != 1.0:
        return Miss(f"beta of {node.name} is not 1")
    axis = 1 if gemm else -1 if result is None else result - 1
    return _with_bias(node, x, w, (axis, addend))


def _with_bias(
    node: ir.Node, x: Linear8, w: Linear8, end: tuple[int, ir.Value | None]
) -> Integers | Miss:
    """Return the product; a bias in the scale of its sums is added to them as an integer."""
    axis, addend = end
    scale = (x.scale * w.scale).astype(np.float32)
    if node.op_type == "Gemm":
        scale = (scale * np.float32(_number(node, "alpha"))).astype(np.float32)
    if not np.all(np.isfinite(scale)) or np.any(w.scale == 0) or np.any(x.scale == 0):
        return Miss(f"a scale of {node.name} is 0 or no finite number")
    bias = as_dequantised(addend) if addend is not None else Miss("there is no bias")
    if isinstance(bias, Miss) or bias.source.dtype != ir.DataType.INT32 or np.any(bias.zero):
        return Integers(node, x, w, scale, axis, None, addend)
    if rank(bias.source) != 1 or not np.allclose(bias.scale, scale, rtol=_SAME_SCALE, atol=0):
        return Integers(node, x, w, scale, axis, None, addend)
    return Integers(node, x, w, scale, axis, bias.source, None)


def _rewrite(form: Integers, names: Names) -> None:
    node, old = form.node, form.node.outputs[0]
    make = Maker(owner(node), names, [])
    total = typed(old, names.fresh(f"{old.name}_sum"), ir.DataType.INT32)
    attributes = {} if node.op_type != "Conv" else _attributes(node)
    op_type = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
    inputs = _operands(form, make)
    if has_channel_zeros(form.x):
        inputs[:3] = [padded(node, form.x, make), inputs[1], None]
        attributes.pop("pads", None)
    while inputs[-1] is None:
        inputs.pop()
    make.node(op_type, inputs, total, **attributes)
    if has_channel_zeros(form.x):
        moved = make.constant(correction(form.x, form.w), f"{old.name}_zeros")
        dims = [-1, *[1] * ((rank(old) or 2) - 2)]
        total = _added(make, total, _reshaped(make, moved, dims), ir.DataType.INT32)
    if form.bias is not None:
        dims = [1] * (rank(form.w.source) or 1)
        dims[form.axis] = -1
        total = _added(make, total, _shaped(make, form, dims), ir.DataType.INT32)
    name = names.fresh(f"{old.name}_float")
    output = make.dequantised(
        total, form.scale, typed(old, name, ir.DataType.FLOAT), None, form.axis
    )
    if form.addend is not None:
        addend = form.addend
        if node.op_type == "Conv":
            dims = [1, -1, *[1] * ((rank(form.w.source) or 2) - 2)]
            addend = _reshaped(make, addend, dims)
        output = _added(make, output, _cast(make, addend, ir.DataType.FLOAT), ir.DataType.FLOAT)
    output = _cast(make, output, old.dtype or ir.DataType.FLOAT)
    replace_nodes([node], make.nodes, [old], [output])


def _operands(form: Integers, make: Maker) -> list[ir.Value | None]:
    """Return the operands and their zero points, ``None`` for those of 0."""
    x, w = form.x.source, form.w.source
    kind = _WEIGHTS[w.dtype or ir.DataType.INT8]
    if w.dtype != kind:
        w = make.node("Cast", [w], typed(w, make.names.fresh(f"{w.name}_bytes"), kind), to=kind)
    if form.node.op_type == "Gemm":
        x = _turned(make, x) if _flag(form.node, "transA") else x
        w = _turned(make, w) if _flag(form.node, "transB") else w
    zeros: list[ir.Value | None] = []
    for side, value, dtype in ((form.x, x, x.dtype), (form.w, w, kind)):
        array = side.zero.astype((dtype or kind).numpy())
        zeros.append(make.constant(array, f"{value.name}_zero") if np.any(array) else None)
    return [x, w, *zeros]


def _turned(make: Maker, value: ir.Value) -> ir.Value:
    shape = None if value.shape is None else ir.Shape(list(value.shape.dims)[::-1])
    name = make.names.fresh(f"{value.name}_turned")
    output = ir.Value(name=name, type=value.type, shape=shape)
    return make.node("Transpose", [value], output, perm=[1, 0])


def _added(make: Maker, left: ir.Value, right: ir.Value, dtype: ir.DataType) -> ir.Value:
    output = typed(left, make.names.fresh(f"{left.name}_biased"), dtype)
    return make.node("Add", [left, right], output)


def _cast(make: Maker, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    if value.dtype == dtype:
        return value
    output = typed(value, make.names.fresh(f"{value.name}_cast"), dtype)
    return make.node("Cast", [value], output, to=dtype)


def _shaped(make: Maker, form: Integers, dims: list[int]) -> ir.Value:
    assert form.bias is not None
    return _reshaped(make, form.bias, dims)


def _reshaped(make: Maker, value: ir.Value, dims: list[int]) -> ir.Value:
    """Return a vector along one of several dimensions."""
    array = constant(value)
    if array is not None:
        return make.constant(array.reshape(dims), f"{value.name}_shaped")
    size = static_shape(value)
    shape = ir.Shape([d if d > 0 else (size[0] if size else None) for d in dims])
    output = ir.Value(name=make.names.fresh(f"{value.name}_shaped"), type=value.type, shape=shape)
    target = make.constant(np.array(dims, np.int64), f"{value.name}_dims")
    return make.node("Reshape", [value, target], output)


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())


def _number(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else float(attribute.as_float())

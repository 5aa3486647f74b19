"""Adapters for operators whose meaning or parameters changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.adapting import ANY_OPSET, Adapter, Rewriter, set_input, take_float, take_ints
from whet.graph.edit import rank, static_shape


def _flattening(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Softmax, LogSoftmax, Hardmax before 13 work on a matrix of all dims before and from axis.

    ``softmax_old(x, axis) = reshape(softmax(flatten(x, axis), -1), shape(x))``; when the axis is
    the last one that is the new meaning already.
    """
    axis = (take_ints(node, "axis") or (1,))[0]
    data = node.inputs[0]
    dims = rank(data)
    last = axis == -1 or (dims is not None and axis == dims - 1)
    if not last:
        flat = rewriter.before(node, "Flatten", [data], {"axis": axis})
        shape = rewriter.before(node, "Shape", [data])
        made = rewriter.before(node, node.op_type, [flat], {"axis": -1})
        _turn_into(node, "Reshape", [made, shape])
    else:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
    return None


def _turn_into(node: ir.Node, op_type: str, inputs: list[ir.Value | None]) -> None:
    """Change what a node computes while it keeps its outputs."""
    node.op_type = op_type
    node.attributes.clear()
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def _dropout(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Dropout: ``ratio`` was an attribute before 12; inference ignores it."""
    take_float(node, "ratio")
    if len(node.outputs) > 1 and node.outputs[1].uses() and rewriter.version < 10:
        return "the mask of an old Dropout is used, which is of another type since opset 10"
    return None


def _spatial(node: ir.Node, rewriter: Rewriter) -> str | None:
    """BatchNormalization: ``spatial=0`` (statistics per element) is gone since 9."""
    spatial = take_ints(node, "spatial")
    return "BatchNormalization with spatial=0 has no equivalent" if spatial == (0,) else None


def _batchnorm_outputs(node: ir.Node, rewriter: Rewriter) -> str | None:
    """BatchNormalization: more than one output meant training before 14."""
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return "BatchNormalization in training mode cannot be compiled"
    if len(node.outputs) > 1:
        node.resize_outputs(1)
    return None


def _scatter(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Scatter became ScatterElements in 11."""
    node.op_type = "ScatterElements"
    return None


def _roi_align(node: ir.Node, rewriter: Rewriter) -> str | None:
    """RoiAlign: corners were not shifted by half a pixel before 16."""
    name = "coordinate_transformation_mode"
    node.attributes[name] = ir.AttrString(name, "output_half_pixel")
    return None


def _grid_sample(node: ir.Node, rewriter: Rewriter) -> str | None:
    """GridSample: the interpolation modes were renamed in 20."""
    mode = node.attributes.get("mode")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    if mode is not None and mode.as_string() in renamed:
        node.attributes["mode"] = ir.AttrString("mode", renamed[mode.as_string()])
    return None


def _group_norm(node: ir.Node, rewriter: Rewriter) -> str | None:
    """GroupNormalization: scale and bias are one number a channel instead of a group since 21."""
    groups = node.attributes["num_groups"].as_int()
    data = node.inputs[0]
    channels = None
    if data is not None and data.shape is not None and len(data.shape) > 1:
        channels = data.shape[1]
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        return "the channels of GroupNormalization are unknown or not a multiple of its groups"
    for index in (1, 2):
        value = node.inputs[index]
        if static_shape(value) == (channels,) and channels != groups:
            continue
        column = rewriter.constant(node, np.array([groups, 1], np.int64), "column")
        wide = rewriter.constant(node, np.array([groups, channels // groups], np.int64), "wide")
        flat = rewriter.constant(node, np.array([-1], np.int64), "flat")
        tall = rewriter.before(node, "Reshape", [value, column])
        spread = rewriter.before(node, "Expand", [tall, wide])
        set_input(node, index, rewriter.before(node, "Reshape", [spread, flat]))
    return None


def _scan(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Scan had a batch axis and sequence lengths before 9.

    It becomes a Scan over the batch, whose body is the Scan of today: initial states are slices of
    the outer one, and final states are collected by it.
    """
    if node.inputs[0] is not None:
        return "Scan of opset 8 with sequence lengths has no equivalent"
    directions = take_ints(node, "directions")
    attributes = dict(node.attributes)
    if directions is not None:
        attributes["scan_input_directions"] = ir.AttrInt64s("scan_input_directions", directions)
    own = list(node.inputs[1:])
    name = rewriter.names.fresh(f"{node.name or node.outputs[0].name}_batch")
    slices = [
        ir.Value(
            name=f"{name}_{k}",
            type=v.type,
            shape=None if v.shape is None else ir.Shape(v.shape[1:]),
        )
        for k, v in enumerate(own)
        if v is not None
    ]
    if len(slices) != len(own):
        return "Scan with an input that is left out has no equivalent"
    node.attributes.clear()
    results = [ir.Value(name=f"{name}_out{k}") for k in range(len(node.outputs))]
    inner = ir.node("Scan", slices, attributes, outputs=results, name=name)
    graph = ir.Graph(slices, results, nodes=[inner], name=name)
    for k, value in enumerate(own):
        node.replace_input_with(k, value)
    node.resize_inputs(len(own))
    node.attributes["body"] = ir.AttrGraph("body", graph)
    node.attributes["num_scan_inputs"] = ir.AttrInt64("num_scan_inputs", len(own))
    return None


def _default_axes(node: ir.Node, rewriter: Rewriter) -> str | None:
    """MeanVarianceNormalization: onnx 1.23 infers shapes only if the axes are written out."""
    if "axes" not in node.attributes:
        node.attributes["axes"] = ir.AttrInt64s("axes", (0, 2, 3))
    return None


def _default_onesided(node: ir.Node, rewriter: Rewriter) -> str | None:
    """STFT: onnx 1.23 infers the whole spectrum unless ``onesided`` is written out."""
    if "onesided" not in node.attributes:
        node.attributes["onesided"] = ir.AttrInt64("onesided", 1)
    return None


FORM_ADAPTERS = (
    Adapter(("STFT",), ANY_OPSET, _default_onesided),
    Adapter(("MeanVarianceNormalization",), ANY_OPSET, _default_axes),
    Adapter(("Softmax", "LogSoftmax", "Hardmax"), 13, _flattening),
    Adapter(("Dropout",), 12, _dropout),
    Adapter(("BatchNormalization",), 9, _spatial),
    Adapter(("BatchNormalization",), 14, _batchnorm_outputs),
    Adapter(("Scatter",), 11, _scatter),
    Adapter(("RoiAlign",), 16, _roi_align),
    Adapter(("GridSample",), 20, _grid_sample),
    Adapter(("GroupNormalization",), 21, _group_norm),
    Adapter(("Scan",), 9, _scan),
)

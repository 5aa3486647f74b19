"""Adapters for Upsample and the older forms of Resize."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.adapting import Adapter, Rewriter, set_input
from whet.graph.edit import constant, constant_tensor


def _upsample_scales(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Upsample: ``scales`` is an input from opset 9 on."""
    scales = node.attributes.pop("scales", None)
    if scales is None:
        return "Upsample has no scales"
    array = np.array(scales.as_floats(), dtype=np.float32)
    set_input(node, 1, rewriter.constant(node, array, "scales"))
    return None


def _upsample(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Upsample became Resize in 10."""
    node.op_type = "Resize"
    return None


def _resize_10(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Resize 10 (and Upsample): ``(X, scales)``, coordinates ``x / scale``.

    Nearest takes the pixel below when it enlarges and the one above when it shrinks, as
    ONNX Runtime does.
    """
    data, scales = node.inputs[0], node.inputs[1]
    node.resize_inputs(3)
    node.replace_input_with(0, data)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)
    known = constant(scales)
    shrinks = known is not None and bool((known < 1).any())
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() in ("bilinear", "trilinear"):
        node.attributes["mode"] = ir.AttrString("mode", "linear")
    strings = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "ceil" if shrinks else "floor",
    }
    for name, text in strings.items():
        node.attributes[name] = ir.AttrString(name, text)
    return None


def _resize_11(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Resize: unused ``roi`` and ``scales`` were empty constants before 13; now they are absent."""
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
        return "Resize with tf_half_pixel_for_nn has no equivalent"
    for index in (1, 2):
        tensor = constant_tensor(node.inputs[index]) if len(node.inputs) > index else None
        if tensor is not None and tensor.size == 0:
            node.replace_input_with(index, None)
    return None


RESIZE_ADAPTERS = (
    Adapter(("Upsample",), 9, _upsample_scales),
    Adapter(("Upsample",), 10, _upsample),
    Adapter(("Upsample", "Resize"), 11, _resize_10),
    Adapter(("Resize",), 13, _resize_11),
)

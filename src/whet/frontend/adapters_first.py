"""Adapters for opsets 1 to 5: what later became inputs, and types that were written as words."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.adapting import Adapter, Rewriter, set_input, take_float, take_ints
from whet.graph.edit import rank

_IN_PLACE = (
    "Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Div", "Dropout", "Elu", "Exp", "Floor",
    "HardSigmoid", "InstanceNormalization", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mul", "Neg",
    "PRelu", "Reciprocal", "Relu", "Reshape", "Selu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh",
)  # fmt: skip


def _consumed(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Which inputs could be overwritten was a hint, gone since 6."""
    node.attributes.pop("consumed_inputs", None)
    return None


def _cast(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Cast: the type was a word before 6."""
    attribute = node.attributes.pop("to", None)
    word = "" if attribute is None else attribute.as_string().upper()
    if word not in ir.DataType.__members__:
        return f"there is no type {word!r}"
    node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType[word]))
    return None


def _concat(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Concat: the axis had the default 1 before 4."""
    if "axis" not in node.attributes:
        node.attributes["axis"] = ir.AttrInt64("axis", 1)
    return None


def _norm(node: ir.Node, rewriter: Rewriter) -> str | None:
    """LpPool and GlobalLpPool: ``p`` was a float before 2."""
    p = take_float(node, "p")
    if p is None:
        return None
    if p != int(p):
        return f"a norm with p = {p} has no equivalent"
    node.attributes["p"] = ir.AttrInt64("p", int(p))
    return None


def _paddings(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Pad: ``paddings`` became ``pads`` in 2."""
    paddings = take_ints(node, "paddings")
    if paddings is None:
        return "Pad has no paddings"
    node.attributes["pads"] = ir.AttrInt64s("pads", paddings)
    return None


def _reshape(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Reshape: the shape is an input from 5 on."""
    shape = take_ints(node, "shape")
    if shape is None:
        return "Reshape has no shape"
    set_input(node, 1, rewriter.constant(node, np.array(shape, np.int64), "shape"))
    return None


def _selu(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Selu: the defaults have more digits since 6."""
    for name, default in (("alpha", 1.6732), ("gamma", 1.0507)):
        if name not in node.attributes:
            node.attributes[name] = ir.AttrFloat32(name, default)
    return None


def _split(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Split: sizes could be an input, of the type of the data, only before 2."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    return "Split with sizes as an input has no equivalent"


def _tile(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Tile: one axis was repeated before 6: ``repeats = tiles where i = axis, else 1``."""
    dims = rank(node.inputs[0])
    if dims is None:
        return "the rank of the input of Tile is unknown"
    to_int = {"to": int(ir.DataType.INT64)}
    tiles, axis = (rewriter.before(node, "Cast", [v], to_int) for v in node.inputs[1:3])
    places = rewriter.constant(node, np.arange(dims), "places")
    ones = rewriter.constant(node, np.ones(dims, np.int64), "ones")
    here = rewriter.before(node, "Equal", [places, axis])
    repeats = rewriter.before(node, "Where", [here, tiles, ones])
    data = node.inputs[0]
    node.resize_inputs(2)
    node.replace_input_with(0, data)
    node.replace_input_with(1, repeats)
    return None


def _upsample(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Upsample: height and width had a scale each before 7, and images alone were enlarged."""
    height, width = take_float(node, "height_scale"), take_float(node, "width_scale")
    if height is None or width is None:
        return "Upsample has no scales"
    node.attributes["scales"] = ir.AttrFloat32s("scales", (1.0, 1.0, height, width))
    return None


FIRST_ADAPTERS = (
    Adapter(_IN_PLACE, 6, _consumed),
    Adapter(("Cast",), 6, _cast),
    Adapter(("Concat",), 4, _concat),
    Adapter(("LpPool", "GlobalLpPool"), 2, _norm),
    Adapter(("Pad",), 2, _paddings),
    Adapter(("Reshape",), 5, _reshape),
    Adapter(("Selu",), 6, _selu),
    Adapter(("Split",), 2, _split),
    Adapter(("Tile",), 6, _tile),
    Adapter(("Upsample",), 7, _upsample),
)

"""Adapters for attributes that became inputs: axes, pads, starts, sizes, limits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.adapting import Adapter, Rewriter, float_type, set_input, take_float, take_ints

_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSumSquare"
)


def _ints_to_input(node: ir.Node, rewriter: Rewriter, name: str, index: int) -> None:
    values = take_ints(node, name)
    if values is not None:
        array = np.array(values, dtype=np.int64)
        set_input(node, index, rewriter.constant(node, array, name))


def _axes(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Squeeze, Unsqueeze and reductions: ``axes`` is an input from opset 13 or 18 on."""
    _ints_to_input(node, rewriter, "axes", 1)
    return None


def _slice(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Slice: ``starts, ends, axes`` are inputs from opset 10 on."""
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        _ints_to_input(node, rewriter, name, index)
    return None


def _pad(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Pad: ``pads, value`` are inputs from opset 11 on."""
    _ints_to_input(node, rewriter, "pads", 1)
    value = take_float(node, "value")
    if value:
        array = np.array(value, dtype=float_type(node))
        set_input(node, 2, rewriter.constant(node, array, "value"))
    return None


def _clip(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Clip: ``min, max`` are inputs from opset 11 on."""
    for index, name in enumerate(("min", "max"), start=1):
        limit = take_float(node, name)
        if limit is not None:
            array = np.array(limit, dtype=float_type(node))
            set_input(node, index, rewriter.constant(node, array, name))
    return None


def _split_sizes(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Split: ``split`` is an input from opset 13 on."""
    _ints_to_input(node, rewriter, "split", 1)
    return None


def _split_count(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Split: equal parts are asked for by ``num_outputs`` from opset 18 on."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    return None


def _topk(node: ir.Node, rewriter: Rewriter) -> str | None:
    """TopK: ``k`` is an input from opset 10 on."""
    _ints_to_input(node, rewriter, "k", 1)
    return None


def _dft(node: ir.Node, rewriter: Rewriter) -> str | None:
    """DFT: ``axis`` is an input from opset 20 on, where its default is -2 instead of 1."""
    axis = (take_ints(node, "axis") or (1,))[0]
    set_input(node, 2, rewriter.constant(node, np.array(axis, dtype=np.int64), "axis"))
    return None


AXES_ADAPTERS = (
    Adapter(("Squeeze", "Unsqueeze", "ReduceSum"), 13, _axes),
    Adapter(tuple(_REDUCTIONS.split()), 18, _axes),
    Adapter(("Slice",), 10, _slice),
    Adapter(("Pad",), 11, _pad),
    Adapter(("Clip",), 11, _clip),
    Adapter(("Split",), 13, _split_sizes),
    Adapter(("Split",), 18, _split_count),
    Adapter(("TopK",), 10, _topk),
    Adapter(("DFT",), 20, _dft),
)

"""Adapters for opset 6: broadcasting on request, test flags, one slope per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.adapting import Adapter, Rewriter, set_input, take_ints
from whet.graph.edit import rank

_BINARY = (
    "Add",
    "And",
    "Div",
    "Equal",
    "Gemm",
    "Greater",
    "Less",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Xor",
)


def _broadcast(node: ir.Node, rewriter: Rewriter) -> str | None:
    """Binary operators: the second input was aligned at ``axis`` of the first.

    Without ``axis`` the last dims are aligned, as today; with it, the second input gets the
    missing dims of one at its end.
    """
    take_ints(node, "broadcast")
    axis = take_ints(node, "axis")
    if axis is None:
        return None
    own, other = rank(node.inputs[0]), rank(node.inputs[1])
    if own is None or other is None:
        return "the ranks of a broadcast along an axis are unknown"
    missing = own - axis[0] % own - other
    return _append_dims(node, rewriter, other, missing)


def _append_dims(node: ir.Node, rewriter: Rewriter, rank_of: int, count: int) -> str | None:
    if count < 0:
        return "the second input has more dims than the first has from the axis on"
    if count:
        axes = np.arange(rank_of, rank_of + count, dtype=np.int64)
        wide = [node.inputs[1], rewriter.constant(node, axes, "axes")]
        set_input(node, 1, rewriter.before(node, "Unsqueeze", wide))
    return None


def _slope(node: ir.Node, rewriter: Rewriter) -> str | None:
    """PRelu: one slope per channel had one dim."""
    own, other = rank(node.inputs[0]), rank(node.inputs[1])
    if own is None or other is None:
        return "the ranks of PRelu are unknown"
    channels = node.inputs[1].shape if node.inputs[1] is not None else None
    if other != 1 or own <= 2 or channels == [1]:
        return None
    return _append_dims(node, rewriter, 1, own - 2)


def _drop(*names: str) -> Adapter:
    def drop(node: ir.Node, rewriter: Rewriter) -> str | None:
        for name in names:
            node.attributes.pop(name, None)
        return None

    return Adapter(("BatchNormalization", "Dropout", "GRU", "LSTM", "RNN"), 7, drop)


LEGACY_ADAPTERS = (
    Adapter(_BINARY, 7, _broadcast),
    Adapter(("PRelu",), 7, _slope),
    _drop("is_test", "output_sequence"),
)

"""Cross-layer equalisation: channels of two layers in a row get ranges of equal size.

``W₂ f(W₁ x + b₁) = (W₂ S) f(S⁻¹ W₁ x + S⁻¹ b₁)`` for ``f`` with ``f(s z) = s f(z)``, ``s > 0``, and
``s_i = √(r₁ᵢ / r₂ᵢ)``, r being the largest weight of a channel (Nagel et al., 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant, constant_array, single_user

Array = np.ndarray[Any, Any]

ROUNDS = 4
"""Passes over all pairs: longer rows of layers settle one pair at a time."""

_THROUGH = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators that a positive factor of a channel passes."""

_FARTHEST = 1e3


def equalize_layers(model: ir.Model) -> int:
    """Balance the weights of every pair of convolutions in a row, in place; return the pairs."""
    pairs = [pair for pair in (_pair(node) for node in model.graph) if pair is not None]
    for _ in range(ROUNDS):
        for first, second in pairs:
            _balance(first, second)
    return len(pairs)


def _pair(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Return a convolution and the one that alone reads it."""
    if not _suits(node):
        return None
    after = single_user(node.outputs[0])
    while after is not None and after.domain == "" and after.op_type in _THROUGH:
        after = single_user(after.outputs[0])
    if after is None or not _suits(after) or after.inputs[1] is node.inputs[1]:
        return None
    return node, after


def _suits(node: ir.Node) -> bool:
    if node.op_type != "Conv" or node.domain != "":
        return False
    weight = constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    alone = node.inputs[1] is not None and len(node.inputs[1].uses()) == 1
    own = bias is None or (constant(bias) is not None and len(bias.uses()) == 1)
    if weight is None or weight.dtype != np.float32 or not alone or not own:
        return False
    return node.attributes.get_int("group", 1) in (1, weight.shape[0])


def _balance(first: ir.Node, second: ir.Node) -> None:
    one, two = (constant_array(node.inputs[1]) for node in (first, second))
    grouped = second.attributes.get_int("group", 1) > 1
    r1 = np.abs(one).reshape(one.shape[0], -1).max(axis=1)
    across = two if grouped else two.swapaxes(0, 1)
    r2 = np.abs(across).reshape(across.shape[0], -1).max(axis=1)
    if r1.shape != r2.shape:
        return
    usable = (r1 > 0) & (r2 > 0)
    ratio = np.sqrt(np.where(usable, r1, 1) / np.where(usable, r2, 1))
    s = np.clip(ratio, 1 / _FARTHEST, _FARTHEST).astype(np.float32)
    _store(first.inputs[1], one / s.reshape(-1, *[1] * (one.ndim - 1)))
    factor = s.reshape(-1, 1, 1, 1) if grouped else s.reshape(1, -1, *[1] * (two.ndim - 2))
    _store(second.inputs[1], two * factor)
    if len(first.inputs) > 2 and first.inputs[2] is not None:
        _store(first.inputs[2], constant_array(first.inputs[2]) / s)


def _store(value: ir.Value | None, array: Array) -> None:
    """Give a constant other contents."""
    assert value is not None
    value.const_value = ir.Tensor(np.ascontiguousarray(array, np.float32), name=value.name)

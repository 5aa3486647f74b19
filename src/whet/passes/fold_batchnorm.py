"""Folding of batch normalisation into the linear operator in front of it.

``y = γ·(x − μ)/√(σ² + ε) + β`` with ``x = W·v + b`` becomes ``W' = s·W``, ``b' = s·(b − μ) + β``
where ``s = γ/√(σ² + ε)``, computed in float64.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, constant_array, rank, replace_nodes
from whet.graph.match import Miss
from whet.passes.linear import Linear, as_linear, rescaled


def fold_batchnorm(model: ir.Model) -> int:
    """Fold every foldable ``BatchNormalization`` of the main graph; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "":
            linear = foldable(node)
            if isinstance(linear, Linear):
                count += _fold(node, linear, names)
    return count


def foldable(node: ir.Node) -> Linear | Miss:
    """Return the linear node that can absorb a batch normalisation, or why there is none."""
    training = node.attributes.get("training_mode")
    if training is not None and training.as_int():
        return Miss("the batch normalisation is in training mode")
    if any(constant(v) is None for v in node.inputs[1:5]):
        return Miss("the statistics are not constant")
    linear = as_linear(node.inputs[0])
    if isinstance(linear, Linear) and linear.axis == -1 and rank(node.outputs[0]) != 2:
        return Miss(f"channels are not the last axis of rank {rank(node.outputs[0])}")
    return linear


def _fold(node: ir.Node, linear: Linear, names: Names) -> int:
    gamma, beta, mean, variance = (_float64(v) for v in node.inputs[1:5])
    epsilon = node.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    made = rescaled(linear, scale, beta - mean * scale, node, names)
    if isinstance(made, Miss):
        return 0
    replace_nodes([linear.node, node], [made], [node.outputs[0]], [made.outputs[0]])
    return 1


def _float64(value: ir.Value | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return constant_array(value).astype(np.float64).reshape(-1)

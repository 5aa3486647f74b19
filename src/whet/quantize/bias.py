"""Bias correction: the mean error that rounding the weights makes is taken out through the bias.

``E[W x] - E[Ŵ x] = (W - Ŵ) E[x]``, one number for each output channel (Nagel et al., 2019).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant_array
from whet.quantize.moments import matrix_of, weight_of
from whet.quantize.observe import Observations
from whet.quantize.write import Plan, effective_weight

Array = np.ndarray[Any, Any]


def corrected_biases(base: ir.Model, plan: Plan, seen: Observations) -> Plan:
    """Return a plan whose biases make up for the mean error; the same one if that is not asked."""
    if not plan.config.bias_correction:
        return plan
    nodes = {node.name: node for node in base.graph}
    biases: dict[str, Array] = dict(plan.biases)
    for layer in plan.active().values():
        moments = seen.moments.get(layer.name)
        if moments is None or layer.bias is None:
            continue
        node = nodes[layer.name]
        weights = weight_of(node, layer)
        error = weights.astype(np.float64) - effective_weight(weights, layer, plan)
        shift = np.einsum("god,gd->go", matrix_of(error, node, layer), moments.mean).reshape(-1)
        biases[layer.name] = constant_array(node.inputs[layer.bias]) + shift.astype(np.float32)
    return replace(plan, biases=biases)

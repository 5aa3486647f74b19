"""Bias correction: the mean error that rounding the weights makes is taken out through the bias.

``E[W x] - E[Ŵ x] = (W - Ŵ) E[x]``, one number for each output channel (Nagel et al., 2019).
Products without a bias get one of zeros first, a MatMul in a sum behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    constant_array,
    make_node,
    owner,
    rank,
    static_shape,
    value_like,
)
from whet.quantize.bodies import all_nodes
from whet.quantize.layers import bias_of, is_constant, is_float32
from whet.quantize.moments import matrix_of, weight_of
from whet.quantize.observe import Observations
from whet.quantize.write import Plan, effective_weight

Array = np.ndarray[Any, Any]


def add_biases(model: ir.Model) -> int:
    """Give products with a constant float32 weight that have no bias one of zeros, in place.

    Returns:
        How many were given one.
    """
    names, count = Names(model), 0
    for node in list(model.graph.all_nodes()):
        size = _outputs_of(node)
        if not size or bias_of(node) is not None or len(node.inputs) > 2:
            continue
        zeros = add_initializer(
            model.graph, np.zeros(size, np.float32), names.fresh(f"{node.name}_bias")
        )
        if node.op_type == "MatMul":
            _add_behind(owner(node), node, zeros, names)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, zeros)
        count += 1
    return count


def _outputs_of(node: ir.Node) -> int:
    """Return how many output channels a product has that can be given a bias; 0 for others."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    weight = node.inputs[1]
    shape = static_shape(weight)
    if not is_constant(weight) or not is_float32(weight) or not shape or len(shape) < 2:
        return 0
    if node.op_type == "MatMul":
        return shape[1] if len(shape) == 2 and rank(node.outputs[0]) else 0
    by_row = node.op_type == "Conv" or node.attributes.get_int("transB", 0) != 0
    return shape[0] if by_row else shape[1]


def _add_behind(graph: ir.Graph, node: ir.Node, bias: ir.Value, names: Names) -> None:
    """Put a sum with a bias behind a node."""
    output = node.outputs[0]
    label = output.name or "product"
    total = value_like(output, label)
    output.replace_all_uses_with(total, replace_graph_outputs=True)
    output.name = names.fresh(f"{label}_product")
    made = make_node("Add", [output, bias], outputs=[total], name=names.fresh(f"{label}_add"))
    graph.insert_after(node, [made])


def corrected_biases(base: ir.Model, plan: Plan, seen: Observations) -> Plan:
    """Return a plan whose biases make up for the mean error; the same one if that is not asked."""
    if not plan.config.bias_correction:
        return plan
    nodes = all_nodes(base)
    biases: dict[str, Array] = dict(plan.biases)
    for layer in plan.active().values():
        moments, node = seen.moments.get(layer.name), nodes[layer.name]
        place = bias_of(node)
        if moments is None or place is None:
            continue
        weights = weight_of(node, layer)
        error = weights.astype(np.float64) - effective_weight(weights, layer, plan)
        shift = np.einsum("god,gd->go", matrix_of(error, node, layer), moments.mean).reshape(-1)
        reader, position = place
        biases[layer.name] = constant_array(reader.inputs[position]) + shift.astype(np.float32)
    return replace(plan, biases=biases)

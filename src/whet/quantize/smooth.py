"""SmoothQuant: the spread between channels of an activation is moved into the weights.

``y = (X S⁻¹)(S W)`` with ``s_j = max|X_j|^α / max|W_j|^(1-α)``; the factor ``S⁻¹`` goes into the
normalisation or the product that computes ``X``, so that nothing is added (Xiao et al., 2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant, constant_array
from whet.quantize.layers import Layer
from whet.quantize.observe import Observations

Array = np.ndarray[Any, Any]

_NORMS = ("LayerNormalization", "RMSNormalization")
_FARTHEST = 1e4


def smooth_layers(
    model: ir.Model, layers: tuple[Layer, ...], seen: Observations, alpha: float
) -> int:
    """Move factors from normalised activations into the products that read them, in place.

    Only where all that reads an activation is a product with a constant that nothing else reads.

    Returns:
        How many activations were changed.
    """
    by_name = {layer.name: layer for layer in layers}
    count = 0
    for node in model.graph.all_nodes():
        if node.op_type in _NORMS and node.domain == "":
            readers = matrix_readers(node.outputs[0], by_name)
            moments = seen.moments.get(readers[0].name or "") if readers else None
            if moments is not None and scales_alone(node):
                largest = moments.largest[0]
                weights = np.max([_depth_limits(r, by_name[r.name or ""]) for r in readers], axis=0)
                move_factor(node, readers, by_name, _factors(largest, weights, alpha))
                count += 1
    return count


def matrix_readers(value: ir.Value, layers: dict[str, Layer]) -> list[ir.Node]:
    """Return the products that read a value, or nothing if anything else does."""
    readers = [use.node for use in value.uses()]
    for use in value.uses():
        layer = layers.get(use.node.name or "")
        fits = layer is not None and layer.op in ("Gemm", "MatMul") and layer.weight == 1
        weight = use.node.inputs[1] if fits else None
        if weight is None or use.idx != 0 or len(weight.uses()) != 1 or layer is None:
            return []
        if layer.axis is None:
            return []
    return [] if value.is_graph_output() else readers


def scales_alone(node: ir.Node) -> bool:
    """Tell whether a normalisation has constant factors that nothing else reads."""
    given = [v for v in node.inputs[1:] if v is not None]
    return bool(given) and all(constant(v) is not None and len(v.uses()) == 1 for v in given)


def move_factor(
    node: ir.Node, readers: list[ir.Node], layers: dict[str, Layer], factor: Array
) -> None:
    """Divide what a normalisation gives by a factor for each channel, and multiply weights."""
    for value in node.inputs[1:]:
        if value is not None:
            array = constant_array(value)
            value.const_value = ir.Tensor((array / factor).astype(np.float32), name=value.name)
    for reader in readers:
        value = reader.inputs[1]
        assert value is not None
        weight = constant_array(value)
        column = factor[None, :] if layers[reader.name or ""].axis == 0 else factor[:, None]
        value.const_value = ir.Tensor((weight * column).astype(np.float32), name=value.name)


def _depth_limits(node: ir.Node, layer: Layer) -> Array:
    """Return the largest weight that meets each channel of the activation."""
    weight = np.abs(constant_array(node.inputs[1]))
    limits: Array = weight.max(axis=0 if layer.axis == 0 else 1)
    return limits


def _factors(largest: Array, weights: Array, alpha: float) -> Array:
    used = (largest > 0) & (weights > 0)
    ratio = np.where(used, largest, 1) ** alpha / np.where(used, weights, 1) ** (1 - alpha)
    return np.clip(ratio, 1 / _FARTHEST, _FARTHEST)

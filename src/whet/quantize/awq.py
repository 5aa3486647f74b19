"""AWQ: channels that activations make important get a larger share of the grid.

``y = (X S⁻¹)(S W)`` with ``s_j = E|X_j|^α``, of all α the one whose rounded weights change the
result least; ``S⁻¹`` goes into the normalisation in front (Lin et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant_array
from whet.quantize.layers import Layer
from whet.quantize.observe import Observations
from whet.quantize.smooth import matrix_readers, move_factor, scales_alone

Array = np.ndarray[Any, Any]

_ALPHAS = np.linspace(0.0, 1.0, 21)
_NORMS = ("LayerNormalization", "RMSNormalization")


def scale_activations(
    model: ir.Model,
    layers: tuple[Layer, ...],
    seen: Observations,
    rounded: Callable[[Array], Array],
) -> int:
    """Scale the channels of normalised activations, in place; return how many were changed.

    Args:
        model: the graph.
        layers: its products.
        seen: moments of what they read; those of scaled activations are divided too.
        rounded: returns a (depth, columns) matrix as its grid can express it.
    """
    by_name = {layer.name: layer for layer in layers}
    count = 0
    for node in model.graph.all_nodes():
        if node.op_type not in _NORMS or node.domain or not scales_alone(node):
            continue
        readers = matrix_readers(node.outputs[0], by_name)
        moments = seen.moments.get(readers[0].name or "") if readers else None
        if moments is None:
            continue
        mean = moments.absolute[0] / max(moments.rows, 1)
        gram = moments.gram[0].astype(np.float64)
        matrices = [_matrix(r, by_name[r.name or ""]) for r in readers]
        factors = [_factor(mean, alpha) for alpha in _ALPHAS]
        losses = [sum(_loss(m, s, gram, rounded) for m in matrices) for s in factors]
        best = int(np.argmin(losses))
        if best:
            move_factor(node, readers, by_name, factors[best])
            count += 1
    return count


def _matrix(node: ir.Node, layer: Layer) -> Array:
    weight = constant_array(node.inputs[1])
    return weight.T if layer.axis == 0 else weight


def _factor(mean: Array, alpha: float) -> Array:
    """Return factors whose logarithms have the mean 0 of their extremes."""
    s = np.where(mean > 0, mean, 1.0) ** alpha
    made: Array = np.clip(s / np.sqrt(s.max() * s.min()), 1e-4, 1e4)
    return made


def _loss(matrix: Array, factor: Array, gram: Array, rounded: Callable[[Array], Array]) -> float:
    """Return ``Σ eᵀ H e`` over columns of ``e = Q(S W) / s - W``."""
    scaled = (matrix * factor[:, None]).astype(np.float32)
    error = rounded(scaled).astype(np.float64) / factor[:, None] - matrix
    return float((error * (gram @ error)).sum())

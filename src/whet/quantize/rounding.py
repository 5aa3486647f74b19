"""Rounding weights together, so that the error of the result is least, not that of each weight.

The error of a row of weights ``w`` rounded to ``q`` is ``(w - q)ᵀ H (w - q)`` with ``H = E[x xᵀ]``.
``gptq`` rounds one column after another and hands its error on to those that are left (Frantar
et al., 2022). ``adaptive`` starts from the nearest numbers and moves single ones to the other
neighbour as long as that lowers the error: the objective of AdaRound (Nagel et al., 2020), without
gradients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant_array
from whet.quantize.bodies import all_nodes
from whet.quantize.grid import LIMITS, Grid, storage_type
from whet.quantize.layers import Layer, root_of
from whet.quantize.moments import Moments, damped, matrix_back, matrix_of, weight_of
from whet.quantize.observe import Observations
from whet.quantize.write import Plan, weight_grid, widened

Array = np.ndarray[Any, Any]

_SWEEPS = 4


def rounded_layers(base: ir.Model, plan: Plan, seen: Observations) -> Plan:
    """Return the plan with weights rounded as its configuration says."""
    kind = plan.config.rounding
    if kind == "nearest":
        return plan
    nodes = all_nodes(base)
    numbers = dict(plan.numbers)
    for layer in plan.layers:
        moments = seen.moments.get(layer.name)
        if moments is None or not moments.gram.size or layer.axis is None:
            continue
        node = nodes[layer.name]
        weights = plan.weights.get(layer.name, weight_of(node, layer))
        steps = _grid(node, layer, weights, plan)
        made = _round(matrix_of(weights, node, layer), _row_scales(steps, node, layer, weights),
                      moments, kind, steps.dtype)  # fmt: skip
        whole = matrix_back(made, weights, layer)
        numbers[layer.name] = (whole.astype(np.int32).astype(storage_type(steps.dtype)), steps)
    return replace(plan, numbers=numbers)


def _grid(node: ir.Node, layer: Layer, weights: Array, plan: Plan) -> Grid:
    steps = weight_grid(weights, layer, plan)
    value = node.inputs[layer.activations[0]]
    assert value is not None
    grid = plan.grids[root_of(value).name or ""]
    if layer.bias is None:
        return steps
    return widened(steps, constant_array(node.inputs[layer.bias]), grid)


def _row_scales(steps: Grid, node: ir.Node, layer: Layer, weights: Array) -> tuple[Array, Array]:
    """Return scale and zero point of every row of ``matrix_of``, (groups, rows)."""
    groups, rows, _ = matrix_of(weights, node, layer).shape
    size = groups * rows
    return (
        np.broadcast_to(steps.scale, size).reshape(groups, rows),
        np.broadcast_to(steps.zero, size).reshape(groups, rows),
    )


def _round(
    matrix: Array, scales: tuple[Array, Array], moments: Moments, kind: str, dtype: str
) -> Array:
    """Return whole numbers for (groups, rows, depth) weights."""
    low, high = LIMITS[dtype]
    if low < 0 and not np.any(scales[1]):
        low = -high
    rounder = gptq_rows if kind == "gptq" else adaptive_rows
    made = [
        rounder(
            matrix[g].astype(np.float64),
            moments.gram[g].astype(np.float64) / max(moments.rows, 1),
            (scales[0][g].astype(np.float64), scales[1][g].astype(np.float64)),
            (low, high),
        )
        for g in range(len(matrix))
    ]
    return np.stack(made)


def gptq_rows(
    weights: Array, gram: Array, scales: tuple[Array, Array], limits: tuple[int, int]
) -> Array:
    """Round rows column by column; the error of a column moves the columns behind it.

    Args:
        weights: (rows, depth).
        gram: H, (depth, depth).
        scales: scale and zero point of every row, or of every weight.
        limits: smallest and largest number.
    """
    work, depth = weights.copy(), weights.shape[1]
    scale, zero = (_spread(s, weights.shape) for s in scales)
    order = np.argsort(-np.diag(gram), kind="stable")
    factor = _inverse_factor(gram[np.ix_(order, order)])
    work, scale, zero = work[:, order], scale[:, order], zero[:, order]
    made = np.empty_like(work)
    block = 64
    for start in range(0, depth, block):
        stop = min(start + block, depth)
        errors = np.zeros((len(work), stop - start))
        for k in range(start, stop):
            q = np.clip(np.rint(work[:, k] / scale[:, k]) + zero[:, k], *limits)
            made[:, k] = q
            error = (work[:, k] - (q - zero[:, k]) * scale[:, k]) / factor[k, k]
            work[:, k + 1 : stop] -= np.outer(error, factor[k, k + 1 : stop])
            errors[:, k - start] = error
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    back = np.empty_like(made)
    back[:, order] = made
    return back


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(values[:, None] if values.ndim == 1 else values, shape)


def _inverse_factor(gram: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of H."""
    inverse = np.linalg.inv(damped(gram))
    made: Array = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return made


def adaptive_rows(
    weights: Array, gram: Array, scales: tuple[Array, Array], limits: tuple[int, int]
) -> Array:
    """Round rows to the nearest, then flip single numbers while that lowers the error.

    Flipping number k by d changes the error ``eᵀHe``, e in steps, by ``d² H_kk - 2 d (He)_k``. All
    rows try the same column at once.
    """
    scale, zero = (_spread(s, weights.shape) for s in scales)
    exact = weights / scale + zero
    made = np.clip(np.rint(exact), *limits)
    h = damped(gram)
    step = scale[:, :1] if np.all(scale == scale[:, :1]) else scale
    error = (exact - made) * step
    product = error @ h
    for _ in range(_SWEEPS):
        moved = 0
        for k in range(weights.shape[1]):
            size = np.broadcast_to(step, weights.shape)[:, k]
            d = np.sign(exact[:, k] - made[:, k])
            d = np.where((made[:, k] + d < limits[0]) | (made[:, k] + d > limits[1]), 0, d)
            d = np.where(np.abs(exact[:, k] - made[:, k]) < 1, d, 0)  # the two neighbours alone
            change = d * size
            gain = 2 * change * product[:, k] - np.square(change) * h[k, k]
            change = np.where(gain > 1e-12 * np.abs(h[k, k]), change, 0.0)
            if change.any():
                made[:, k] += np.where(change != 0, d, 0)
                error[:, k] -= change
                product -= np.outer(change, h[k])
                moved += int(np.count_nonzero(change))
        if not moved:
            break
    return made

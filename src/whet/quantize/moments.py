"""Second moments of what products read: what rounding with compensation needs to know."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from whet.errors import InputError
from whet.graph.edit import constant_array, static_shape
from whet.quantize.layers import Layer

Array = np.ndarray[Any, Any]

_ROWS = 2048
"""Rows of one batch that enter the moments of one layer, drawn by chance."""

MOST_DEPTH = 8192
"""A larger depth has no second moments: they would take 256 MiB."""


DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, so that it can be inverted."""


_LARGEST = float(np.finfo(np.float32).max)


class Moments:
    """Sums over the rows that a product reads, ``y = W x`` for each row ``x``.

    A grouped convolution has several such products; all sums have their number first.

    Attributes:
        rows: rows seen.
        total: sum of ``x``, (groups, depth).
        absolute: sum of ``|x|``.
        largest: largest ``|x|``.
        gram: sum of ``x xᵀ``, (groups, depth, depth); empty for a depth beyond ``MOST_DEPTH``.
    """

    def __init__(self, groups: int, depth: int) -> None:
        self.rows = 0
        self.total: Array = np.zeros((groups, depth))
        self.absolute: Array = np.zeros((groups, depth))
        self.largest: Array = np.zeros((groups, depth))
        small = depth <= MOST_DEPTH
        self.gram: Array = np.zeros((groups, depth, depth) if small else (0, 0, 0), np.float32)

    def add(self, rows: Array, where: str) -> None:
        """Add rows of shape (rows, groups, depth), which a layer reads.

        Raises:
            InputError: they are so large that the sum of their squares is no float32.
        """
        if not rows.size:
            return
        self.rows += len(rows)
        size = np.abs(rows)
        if self.gram.size and float(size.max()) ** 2 * self.rows > _LARGEST:
            raise InputError(
                f"a value of {size.max():.1e} is too large to be squared",
                where=where,
                hint="round to the nearest, which needs no squares",
            )
        self.total += rows.sum(axis=0, dtype=np.float64)
        self.absolute += size.sum(axis=0, dtype=np.float64)
        self.largest = np.maximum(self.largest, size.max(axis=0))
        if self.gram.size:
            by_group = rows.transpose(1, 0, 2)
            self.gram += by_group.transpose(0, 2, 1) @ by_group

    @property
    def mean(self) -> Array:
        """The mean row, (groups, depth)."""
        mean: Array = self.total / max(self.rows, 1)
        return mean

    def state(self) -> dict[str, Array]:
        """Return everything as arrays, to be stored."""
        return {
            "rows": np.array(self.rows),
            "total": self.total,
            "absolute": self.absolute,
            "largest": self.largest,
            "gram": self.gram,
        }


def restored_moments(state: dict[str, Array]) -> Moments:
    """Return the moments that ``Moments.state`` described.

    Raises:
        ValueError: they are none.
    """
    made = Moments(*state["total"].shape)
    made.rows = int(state["rows"])
    made.total, made.absolute = state["total"], state["absolute"]
    made.largest, made.gram = state["largest"], state["gram"]
    for name, array in Moments(*made.total.shape).state().items():
        same = (state[name].shape, state[name].dtype) == (array.shape, array.dtype)
        if not same or not np.isfinite(state[name]).all():
            raise ValueError(f"{name} is no sum of rows")
    if not all(_is_gram(gram) for gram in made.gram):
        raise ValueError("gram is no sum of squares")
    return made


def damped(gram: Array, share: float = DAMPING) -> Array:
    """Return H with what makes it invertible; columns that are always 0 get 1."""
    h = (gram.astype(np.float64) + gram.T) / 2
    diagonal = np.diag(h).copy()
    extra = share * float(diagonal.mean()) if diagonal.any() else 1.0
    h[np.diag_indices_from(h)] += np.where(diagonal > 0, extra, max(extra, 1e-12))
    return h


def _is_gram(gram: Array) -> bool:
    """Tell whether a matrix is a sum of ``x xᵀ``, up to what float32 rounds.

    Half of the damping has to make it positive definite, so that all of it keeps every eigenvalue
    far enough from 0 for H to be inverted.
    """
    spread = float(np.ptp(gram)) if gram.size else 0.0
    if np.diag(gram).min(initial=0.0) < 0 or not np.allclose(gram, gram.T, 1e-3, spread * 1e-5):
        return False
    try:
        np.linalg.cholesky(damped(gram, DAMPING / 2))
    except np.linalg.LinAlgError:
        return False
    return True


def rows_read(node: ir.Node, layer: Layer, values: Array, seed: int) -> Array | None:
    """Return rows that a product reads of its first input, (rows, groups, depth); a sample of all.

    ``None`` where the layer is no product with one matrix: a transposed convolution, or a MatMul
    with a constant of one or three dimensions.
    """
    if layer.weight is None or layer.axis is None or layer.op not in ("Conv", "Gemm", "MatMul"):
        return None
    generator = np.random.default_rng(seed)
    if layer.op == "Conv":
        return _patches(node, values, generator)
    flat = values.reshape(-1, values.shape[-1])
    return _drawn(flat, generator)[:, None, :]


def _drawn(rows: Array, generator: np.random.Generator) -> Array:
    if len(rows) <= _ROWS:
        return rows
    return rows[np.sort(generator.choice(len(rows), _ROWS, replace=False))]


def _patches(node: ir.Node, values: Array, generator: np.random.Generator) -> Array | None:
    """Return what the filters of a convolution see at places drawn by chance."""
    weight = static_shape(node.inputs[1])
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if weight is None or len(weight) != 4 or kind not in ("NOTSET", "VALID"):
        return None
    group = node.attributes.get_int("group", 1)
    strides = node.attributes.get_ints("strides", (1, 1))
    dilations = node.attributes.get_ints("dilations", (1, 1))
    pads = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0))) if kind == "NOTSET" else (0,) * 4
    x = np.pad(values, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [(k - 1) * d + 1 for k, d in zip(weight[2:], dilations, strict=True)]
    if x.shape[2] < reach[0] or x.shape[3] < reach[1]:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    n, channels, height, width = windows.shape[:4]
    places = _drawn(np.arange(n * height * width), generator)
    at = np.unravel_index(places, (n, height, width))
    found = windows.transpose(0, 2, 3, 1, 4, 5)[at]
    made: Array = found.reshape(len(places), group, channels // group * weight[2] * weight[3])
    return made


def matrix_of(weights: Array, node: ir.Node, layer: Layer) -> Array:
    """Return weights as (groups, output channels, depth), rows as they meet ``rows_read``."""
    if layer.op == "Conv":
        group = node.attributes.get_int("group", 1)
        return weights.reshape(group, weights.shape[0] // group, -1)
    return (weights if layer.axis == 0 else weights.T)[None]


def matrix_back(matrix: Array, like: Array, layer: Layer) -> Array:
    """Return weights in their own shape: the inverse of ``matrix_of``."""
    if layer.op == "Conv":
        return matrix.reshape(like.shape)
    return matrix[0] if layer.axis == 0 else np.ascontiguousarray(matrix[0].T)


def weight_of(node: ir.Node, layer: Layer) -> Array:
    """Return the constant operand of a layer."""
    assert layer.weight is not None
    return constant_array(node.inputs[layer.weight])

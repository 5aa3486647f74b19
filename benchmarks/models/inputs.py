"""Seeded example inputs of the kind each model expects, made with NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["image", "tokens", "mask", "features"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One model input.

    Attributes:
        name: the ONNX input name.
        shape: static shape, batch first.
        kind: what the values look like, see :func:`make_input`.
        vocabulary: number of token ids, for ``tokens``.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    vocabulary: int = 0


def make_image(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return an f32 image batch (N, C, H, W) with structure at every scale.

    White noise averages out in a pooling layer, and then all images give one answer; a sum of
    noise from coarse to fine keeps activations input dependent. Mean is about 0, deviation 1.
    """
    total = np.zeros(shape, np.float64)
    cell = 1
    while cell <= min(shape[2:]):
        coarse = rng.standard_normal((*shape[:2], -(-shape[2] // cell), -(-shape[3] // cell)))
        fine = coarse.repeat(cell, axis=2).repeat(cell, axis=3)
        total += fine[:, :, : shape[2], : shape[3]]
        cell *= 4
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def make_input(spec: InputSpec, rng: np.random.Generator) -> Array:
    """Return one seeded input.

    ``image`` is :func:`make_image`; ``tokens`` are int64 ids below the vocabulary; ``mask`` is an
    int64 padding mask whose last eighth is 0; ``features`` are standard normal f32.
    """
    if spec.kind == "image":
        return make_image(spec.shape, rng)
    if spec.kind == "tokens":
        return rng.integers(0, spec.vocabulary, spec.shape, dtype=np.int64)
    if spec.kind == "mask":
        mask = np.ones(spec.shape, np.int64)
        mask[:, spec.shape[1] - spec.shape[1] // 8 :] = 0
        return mask
    return rng.standard_normal(spec.shape, dtype=np.float32)


def make_inputs(specs: tuple[InputSpec, ...], seed: int) -> dict[str, Array]:
    """Return all inputs of a model, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return {spec.name: make_input(spec, rng) for spec in specs}

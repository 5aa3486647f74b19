"""What an entry of the tables says: a model class, its small configuration, inputs and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["tokens", "mask", "types", "features", "boxes", "ones", "flags"]
Modality = Literal["text", "vision", "audio", "multimodal"]
Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model.

    Attributes:
        name: the argument's name in ``forward``, and the ONNX input's.
        kind: what the values look like, see :func:`make_input`.
        dims: a number, or the name of a dimension that changes from call to call.
        limit: for ``tokens`` and ``types``, the number of different ids.
    """

    name: str
    kind: Kind
    dims: tuple[int | str, ...]
    limit: int = 0

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape when named dimensions have these sizes."""
        return tuple(d if isinstance(d, int) else sizes[d] for d in self.dims)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    Attributes:
        model: class of ``transformers``.
        modality: what it reads.
        config: what the configuration class is called with; a nested mapping is a nested
            configuration.
        inputs: in the order of the ONNX inputs.
        example: sizes with which the model is exported.
        sizes: sizes at which it is compared.
        outputs: fields of the model's output; by default its first tensor.
        call: further keyword arguments of every call.
    """

    model: str
    modality: Modality
    config: Mapping[str, Any]
    inputs: tuple[Input, ...]
    example: Sizes
    sizes: tuple[Sizes, ...]
    outputs: tuple[str, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)


def make_input(spec: Input, sizes: Sizes, rng: np.random.Generator) -> Array:
    """Return one seeded input of shape ``spec.shape(sizes)``.

    ``tokens`` are int64 ids from 2 on, as many models treat the first ones apart; ``types`` are
    int64 ids from 0 on; ``mask`` is an int64 padding mask that hides the last quarter of every
    second row; ``ones`` is int64 ones, ``flags`` booleans that are all true, ``features`` normal
    float32, and ``boxes`` int64 corners ``(left, top, right, bottom)`` on a page of 100 by 100.
    """
    shape = spec.shape(sizes)
    if spec.kind == "tokens":
        return rng.integers(2, spec.limit, shape, dtype=np.int64)
    if spec.kind == "types":
        return rng.integers(0, spec.limit, shape, dtype=np.int64)
    if spec.kind == "mask":
        mask = np.ones(shape, np.int64)
        mask[::2, shape[1] - shape[1] // 4 :] = 0
        return mask
    if spec.kind == "boxes":
        return np.sort(rng.integers(0, 100, (*shape[:-1], 2, 2)), axis=-2).reshape(shape)
    if spec.kind in ("ones", "flags"):
        return np.ones(shape, np.int64 if spec.kind == "ones" else np.bool_)
    return rng.standard_normal(shape, dtype=np.float32)


def make_inputs(architecture: Architecture, sizes: Sizes, seed: int) -> dict[str, Array]:
    """Return all inputs of an architecture at these sizes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return {spec.name: make_input(spec, sizes, rng) for spec in architecture.inputs}

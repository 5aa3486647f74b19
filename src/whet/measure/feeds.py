"""Inputs to measure with: random arrays that fit what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whet.dtypes import DTYPES, numpy_dtype
from whet.errors import InputError, ResourceError
from whet.program.records import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def random_inputs(
    specs: Sequence[TensorSpec], dims: Mapping[str, int], *, seed: int
) -> dict[str, Array]:
    """Make inputs from a seed: normal floats, and integers of 0 or 1, which are valid anywhere.

    Raises:
        InputError: a dimension is known at run time only and ``dims`` does not give it, or an input
            holds texts or is no array.
        ResourceError: an input is too large for memory, or for any.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in specs:
        if spec.dtype not in DTYPES:
            raise InputError(
                f"there are no random values of the type {spec.dtype}",
                where=f"input {spec.name!r}",
                hint=f"give them: --input {spec.name}=FILE.npy, or an array from Python",
            )
        shape = tuple(_resolve(dim, spec, dims) for dim in spec.shape)
        try:
            arrays[spec.name] = _draw(generator, shape, numpy_dtype(spec.dtype))
        except (MemoryError, ValueError) as error:
            raise ResourceError(
                f"an array of shape {shape} cannot be had", where=f"input {spec.name!r}"
            ) from error
    return arrays


def _draw(generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "biu":
        return np.asarray(generator.integers(0, 2, shape)).astype(dtype)
    return np.asarray(generator.standard_normal(shape, dtype=np.float32)).astype(dtype)


def _resolve(dim: int | str, spec: TensorSpec, dims: Mapping[str, int]) -> int:
    """Return a dimension as a number."""
    if isinstance(dim, int):
        return dim
    if dim not in dims:
        raise InputError(
            f"the dimension {dim!r} has no value", where=spec.name, hint=f"give --dim {dim}=1"
        )
    return dims[dim]

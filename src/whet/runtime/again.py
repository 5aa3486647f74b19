"""A call that looks like the one before: what has to be checked, and nothing that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from whet.runtime.arrays import Array, Port, maker_of
from whet.runtime.state import Binding


class Again(msgspec.Struct, frozen=True, eq=False):
    """What the last call found out, for calls with arrays of the same types and shapes.

    A large model leaves nothing of Python in the caches, so that each function, and each object
    that NumPy makes to answer, costs a microsecond or more: collecting inputs, binding shapes and
    placing outputs took 60 us of a call of ResNet-50, and take 40 so.

    Attributes:
        inputs: name, type and shape of each.
        binding: what follows from the shapes.
        outputs: name of each, and what makes its array.
    """

    inputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
    binding: Binding
    outputs: tuple[tuple[str, Callable[[], Array]], ...]

    def arrays(self, inputs: Mapping[str, Any]) -> list[Array] | None:
        """Return the inputs in order, if they can be used as they are and are as before."""
        if type(inputs) is not dict or len(inputs) != len(self.inputs):
            return None
        found: list[Array] = []
        for name, dtype, shape in self.inputs:
            value = inputs.get(name)
            if type(value) is not np.ndarray or value.dtype is not dtype or value.shape != shape:
                return None
            flags = value.flags
            if not (flags.c_contiguous and flags.aligned):
                return None
            found.append(value)
        return found

    def results(self) -> dict[str, Array]:
        """Return new arrays for the outputs."""
        return {name: make() for name, make in self.outputs}


def call_again(ports: Sequence[Port], outputs: Sequence[Port], binding: Binding,
               shapes: Sequence[tuple[int, ...]]) -> Again | None:  # fmt: skip
    """Return what a call with given shapes found out, ``None`` if there is nothing to compute."""
    if binding.empty:
        return None
    return Again(
        tuple((p.name, p.dtype, s) for p, s in zip(ports, shapes, strict=True)),
        binding,
        tuple(
            (p.name, maker_of(s, p.dtype))
            for p, s in zip(outputs, binding.output_shapes, strict=True)
        ),
    )

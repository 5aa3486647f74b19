"""A model cut at every floating-point value: each operator alone, fed with what one likes.

Fed with golden values it shows what every operator adds by itself. Fed with what a program left in
memory, as often as operators follow each other between such values, it shows what the values that
fusion removed are on their way through that program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from whet.errors import InputError
from whet.measure.accuracy.graphs import (
    cut_at,
    given_name,
    value_names,
    values_read,
    with_outputs,
)
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reference import Golden

Array = np.ndarray[Any, Any]

MOST_RUNS = 16
"""A compilation takes as long as some runs more."""


class Stretches:
    """The operators of a model, in one compilation. Integers are not cut: they may decide shapes.

    Args:
        model: the model.
        names: the values that are looked at.
        golden: what they should be.
        feeds: the model's inputs.
        recipe: how to compile.

    Raises:
        WhetError: the cut model cannot be compiled.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        names: Sequence[str],
        golden: Golden,
        feeds: Mapping[str, Array],
        recipe: Recipe,
    ) -> None:
        made_here = set(value_names(model))
        self.cut = [n for n in names if golden.values[n].dtype.kind in "fcV" and n in made_here]
        self._feeds, self._golden, self._nodes = feeds, golden.values, model.graph.node
        cut = cut_at(model, self.cut, golden.values)
        self._program = recipe.compile(with_outputs(cut, names, golden.values))

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return what every operator makes of some values.

        Raises:
            WhetError: it cannot be run.
        """
        given = {**self._feeds, **{given_name(name): values[name] for name in self.cut}}
        return self._program.run({s.name: given[s.name] for s in self._program.inputs})

    def settle(self, held: Mapping[str, Array]) -> dict[str, Array] | None:
        """Return every value as its operator makes it of those that are held and of each other.

        ``None`` if too many operators follow each other between values that are held, or if sizes
        follow from data and are not the golden ones.
        """
        values = {**self._golden, **held}
        runs = self._depth(held)
        if runs > MOST_RUNS:
            return None
        try:
            for _ in range(runs):
                made = self.run(values)
                values |= {name: made[name] for name in self.cut if name not in held}
            return self.run(values)
        except InputError:
            return None

    def _depth(self, held: Mapping[str, Array]) -> int:
        """Return how many cut values follow each other at most without one that is held."""
        free = set(self.cut) - set(held)
        behind: dict[str, int] = {}
        for node in self._nodes:
            most = max((behind.get(name, 0) for name in values_read(node)), default=0)
            for name in node.output:
                behind[name] = 0 if name in held else most + (name in free)
        return max(behind.values(), default=0)


def with_fusion(own: Array, kept: Array, alone: Array) -> Array:
    """Return a value as a fused kernel makes it of golden values.

    Args:
        own: as its operators alone make it of golden values.
        kept: as the program's kernel made it of what it had.
        alone: as the operators alone make it of the same.
    """
    wide = np.complex128 if own.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        added = kept.astype(wide) - alone.astype(wide)
    same = _equal(kept, alone)
    return np.where(same, own, (own.astype(wide) + added).astype(own.dtype))


def _equal(a: Array, b: Array) -> Array:
    """Return where two arrays are equal, NaN being equal to NaN."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))

"""The smallest model that still fails.

Nodes are taken away; what they computed is fed as an input, with the golden value. First a half of
the model that fails by itself is taken, then a half of that, as long as there is one: this
compiles a few times the model, whatever its size. Around what fails only together, the shortest
failing beginning is searched, then the shortest failing end of that, and delta debugging (Zeller
and Hildebrandt, 2002) removes what is not needed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from whet.measure.accuracy.failure import Failure, Question, find_failure, same_failure
from whet.measure.accuracy.graphs import (
    constant_names,
    slice_nodes,
    value_names,
    values_read,
    with_outputs,
)
from whet.measure.accuracy.limits import Limits
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reference import AUTO, Golden, run_golden

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]

_SHAPES = frozenset({"Shape", "Size"})
_RANDOM = ("Random", "Bernoulli", "Multinomial")


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """A failing model with as few nodes as were found.

    Attributes:
        model: the small model.
        feeds: an array for each of its inputs.
        golden: its right outputs.
        failure: how it fails.
        nodes: names of the nodes left, as in the original.
        nodes_before: number of nodes of the original.
        trials: compilations made.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    golden: Golden
    failure: Failure
    nodes: tuple[str, ...]
    nodes_before: int
    trials: int


@dataclass(slots=True)
class _Search:
    """The original model, all its golden values, and what was tried."""

    model: onnx.ModelProto
    recipe: Recipe
    golden: Golden
    values: Mapping[str, Array]
    frozen: frozenset[str]
    limits: Limits | None
    failure: Failure
    tell: Progress
    trials: int = 0

    def build(self, keep: Sequence[int]) -> tuple[onnx.ModelProto, Question] | None:
        """Return the model of some nodes and what it is asked; none if that is no model."""
        try:
            part = slice_nodes(self.model, keep, self.values, self.frozen)
        except KeyError:  # a value that is no tensor would have to be fed
            return None
        if not part.graph.output:
            return None
        feeds = {v.name: self.values[v.name] for v in part.graph.input}
        golden = {v.name: self.values[v.name] for v in part.graph.output}
        right = Golden(source=self.golden.source, values=golden)
        return part, Question(feeds, right, self.limits)

    def fails(self, keep: Sequence[int]) -> bool:
        """Whether some nodes alone fail in the same way."""
        built = self.build(keep)
        if built is None:
            return False
        self.trials += 1
        self.tell("trials", self.trials, max(self.trials + 1, 30))
        return same_failure(find_failure(self.recipe, *built), self.failure)


def reduce_model(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    recipe: Recipe,
    *,
    limits: Limits | None = None,
    reference: str = AUTO,
    progress: Progress | None = None,
) -> Reduced | None:
    """Return the smallest failing part of a model that was found, or ``None`` if it does not fail.

    Args:
        model: the model.
        feeds: an array for each input.
        recipe: how it is compiled where it fails.
        limits: what counts as wrong.
        reference: who computes golden values; see ``run_golden``.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        UnsupportedError: the reference cannot run the model.
    """
    golden = run_golden(with_outputs(model, value_names(model)), feeds, reference)
    outputs = {v.name: golden.values[v.name] for v in model.graph.output}
    question = Question(feeds, Golden(source=golden.source, values=outputs), limits)
    failure = find_failure(recipe, model, question)
    if failure is None:
        return None
    values = {**golden.values, **feeds}
    tell = progress or (lambda stage, done, total: None)
    frozen = frozenset(_fixed_values(model) & set(values))
    search = _Search(model, recipe, golden, values, frozen, limits, failure, tell)
    return _result(search, _shrink(search), question)


def _result(search: _Search, keep: list[int], question: Question) -> Reduced:
    nodes = search.model.graph.node
    everything = len(keep) == len(nodes)
    built = None if everything else search.build(keep)
    model, asked = built if built is not None else (search.model, question)
    return Reduced(
        model=model,
        feeds=dict(asked.feeds),
        golden=asked.golden,
        failure=search.failure,
        nodes=tuple(nodes[position].name for position in keep),
        nodes_before=len(nodes),
        trials=search.trials,
    )


def _fixed_values(model: onnx.ModelProto) -> set[str]:
    """Return values that follow from constants and shapes alone, as do most targets of Reshape."""
    fixed = constant_names(model)
    for node in model.graph.node:
        known = node.op_type in _SHAPES or all(name in fixed for name in values_read(node))
        if known and not node.op_type.startswith(_RANDOM):
            fixed.update(filter(None, node.output))
    return fixed


def _shrink(search: _Search) -> list[int]:
    keep = _failing_half(list(range(len(search.model.graph.node))), search.fails)
    keep = _halved(keep, lambda part, count: part[:count], search.fails)
    keep = _halved(keep, lambda part, count: part[len(part) - count :], search.fails)
    return _delta_debug(keep, search.fails)


def _failing_half(keep: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return the smallest part that halves of failing halves give."""
    while len(keep) > 1:
        middle = len(keep) // 2
        half = next((part for part in (keep[:middle], keep[middle:]) if fails(part)), None)
        if half is None:
            break
        keep = half
    return keep


def _halved(
    keep: list[int],
    take: Callable[[list[int], int], list[int]],
    fails: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Return the shortest failing part that a search by halves finds."""
    low, high = 1, len(keep)
    while low < high:
        middle = (low + high) // 2
        if fails(take(keep, middle)):
            high = middle
        else:
            low = middle + 1
    return take(keep, high)


def _delta_debug(keep: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Remove ever smaller groups of nodes as long as the rest still fails."""
    groups = 2
    while len(keep) > 1:
        size = -(-len(keep) // groups)
        rests = [keep[:start] + keep[start + size :] for start in range(0, len(keep), size)]
        smaller = next((rest for rest in rests if rest and fails(rest)), None)
        if smaller is not None:
            keep, groups = smaller, max(groups - 1, 2)
        elif size == 1:
            break
        else:
            groups = min(groups * 2, len(keep))
    return keep

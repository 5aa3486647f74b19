"""Which pass makes a program fail, and which of its rewrites.

The search assumes that once enough passes run, the failure stays: it finds the first pass, in the
order of the pipeline, with which the failure appears, then the first rewrite of that pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import onnx

from whet.errors import WhetError
from whet.frontend.load import load_model
from whet.graph.text import graph_text
from whet.measure.accuracy.failure import Failure, Question, find_failure, same_failure
from whet.measure.accuracy.recipe import Recipe
from whet.passes.pipeline import PassRecord, optional_passes, run_passes
from whet.words import counted

Progress = Callable[[str, int, int], None]
Stage = Literal["nothing", "pass", "lowering", "kernel"]

_MOST_REWRITES = 1 << 20
_LEVELS = {
    1: "memory is reused",
    2: "operators are fused",
    3: "sums are reordered, as in Winograd convolution",
}


class Culprit(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a program fail.

    Attributes:
        stage: ``pass``: a rewrite of the graph; ``lowering``: it appears at an optimisation level
            without any optional pass; ``kernel``: at level 0 already; ``nothing``: no failure.
        failure: how the program fails.
        name: the pass, or what the level adds.
        rewrite: which rewrite of the pass, from 1.
        rewrites: how many the pass makes; 0 if it fails before that is known.
        level: the optimisation level, for ``lowering``.
        change: what the rewrite changed, as a text difference of the graph.
        passes: switches with which the failure appears; with one rewrite less it does not.
        trials: compilations made.
    """

    stage: Stage
    failure: Failure | None = None
    name: str = ""
    rewrite: int = 0
    rewrites: int = 0
    level: int = 0
    change: str = ""
    passes: dict[str, bool | int] = {}
    trials: int = 0


@dataclass(slots=True)
class _Search:
    """One model under one recipe, and what was tried."""

    model: onnx.ModelProto
    recipe: Recipe
    question: Question
    failure: Failure
    tell: Progress
    trials: int = 0

    def fails(self, passes: Mapping[str, bool | int], level: int | None = None) -> bool:
        """Whether the model fails in the same way with these switches."""
        self.trials += 1
        self.tell("trials", self.trials, max(self.trials + 1, 12))
        found = find_failure(self.recipe.switched(passes, level), self.model, self.question)
        return same_failure(found, self.failure)


def bisect_passes(
    model: onnx.ModelProto, recipe: Recipe, question: Question, progress: Progress | None = None
) -> Culprit:
    """Find the pass and the rewrite that make a program fail.

    Args:
        model: the model.
        recipe: how it is compiled where it fails.
        question: inputs, right outputs and limits.
        progress: called as ``progress(stage, done, total)``.
    """
    failure = find_failure(recipe, model, question)
    if failure is None:
        return Culprit(stage="nothing", trials=1)
    tell = progress or (lambda stage, done, total: None)
    search = _Search(model, recipe, question, failure, tell, 1)
    options = recipe.options
    given = dict(options.passes)
    names = optional_passes(options.opt_level, given)

    def prefix(count: int) -> dict[str, bool | int]:
        return {**given, **dict.fromkeys(names[count:], False)}

    if search.fails(prefix(0)):
        return _blame_lowering(search, prefix(0))
    count = _first(lambda k: search.fails(prefix(k)), 1, len(names))
    return _blame_rewrite(search, names[count - 1], prefix(count))


def _first(fails: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number that fails; ``high`` is known to."""
    while low < high:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _blame_lowering(search: _Search, passes: dict[str, bool | int]) -> Culprit:
    top = search.recipe.options.opt_level
    level = _first(lambda k: search.fails(passes, k), 0, top) if top else 0
    return Culprit(
        stage="lowering" if level else "kernel",
        failure=search.failure,
        name=_LEVELS.get(level, "every operator is a kernel of its own"),
        level=level,
        passes=passes,
        trials=search.trials,
    )


def _blame_rewrite(search: _Search, name: str, passes: dict[str, bool | int]) -> Culprit:
    total, _ = _run(search, name, passes)
    limit = 1
    while limit < _MOST_REWRITES and not search.fails({**passes, name: limit}):
        limit *= 2
    number = _first(lambda k: search.fails({**passes, name: k}), limit // 2 + 1, limit)
    _, before = _run(search, name, {**passes, name: number - 1})
    _, after = _run(search, name, {**passes, name: number})
    change = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name}, {counted(number - 1, 'rewrite')}",
        f"{name}, {counted(number, 'rewrite')}", lineterm="", n=1,
    )  # fmt: skip
    return Culprit(
        stage="pass",
        failure=search.failure,
        name=name,
        rewrite=number,
        rewrites=total,
        change="\n".join(change),
        passes={**passes, name: number},
        trials=search.trials,
    )


def _run(search: _Search, name: str, passes: Mapping[str, bool | int]) -> tuple[int, str]:
    """Run the passes alone; return the rewrites of one and the graph as it left it."""
    model = load_model(search.model, shapes=search.recipe.shapes)
    texts = [""]

    def observe(record: PassRecord) -> None:
        if record.name == name:
            texts.append(graph_text(model))

    level = search.recipe.options.opt_level
    try:
        records = run_passes(model, opt_level=level, switches=passes, observe=observe)
    except WhetError:  # the failure itself: how many rewrites there would be stays unknown
        return 0, texts[-1]
    return sum(r.rewrites for r in records if r.name == name), texts[-1]

"""Rewrites that pay on this machine: each pass is kept only if it measures faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from whet.measure.accuracy.recipe import Recipe
from whet.measure.runner import Inputs, Outputs
from whet.measure.versus import Ends, Versus, compare_runners

Progress = Callable[[str, int, int], None]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One pass on trial.

    Attributes:
        name: the pass.
        kept: whether it measured faster.
        versus: A is the program without the pass, B the one with it.
    """

    name: str
    kept: bool
    versus: Versus


@dataclass(slots=True)
class _Ready:
    """A program that is compiled already, as the measuring engine takes it."""

    name: str
    program: Any

    def prepare(self) -> None:
        """Do nothing."""

    def run(self, inputs: Inputs) -> Outputs:
        """Run once."""
        outputs: Outputs = self.program.run(inputs)
        return outputs

    def renew(self) -> None:
        """Let the memory of calls go; the next one takes new."""
        self.program.release()


def keep_faster(
    model: Path,
    recipe: Recipe,
    inputs: Sequence[Inputs],
    passes: Sequence[str],
    *,
    most_rounds: int = 200,
    progress: Progress | None = None,
) -> tuple[Trial, ...]:
    """Try passes one after the other; those that are not faster beyond doubt are switched off.

    Args:
        model: the ONNX file.
        recipe: how it is compiled.
        inputs: feeds that rounds take in turn.
        passes: the passes to try, in their order.
        most_rounds: rounds of a comparison.
        progress: called as ``progress("passes", done, total)``.

    Raises:
        WhetError: the model cannot be compiled.
    """
    switches = dict(recipe.options.passes)
    trials: list[Trial] = []
    for number, name in enumerate(passes):
        without, with_pass = (
            _Ready(label, recipe.switched({**switches, name: on}).compile(model))
            for label, on in (("without", False), ("with", switches.get(name, True)))
        )
        found = compare_runners(without, with_pass, inputs, Ends(rounds=most_rounds))
        kept = found.verdict == "faster"
        if not kept:
            switches[name] = False
        trials.append(Trial(name=name, kept=kept, versus=found))
        if progress is not None:
            progress("passes", number + 1, len(passes))
    return tuple(trials)

"""The accuracy target: the fewest layers are rolled back until the metric holds.

Layers are ranked by the error that each makes when it alone is quantised. Bisection over the
ranking finds the shortest prefix to leave in float; then single layers are brought back, the least
sensitive first, as long as the target holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from whet.errors import OptionError, UnsupportedError
from whet.quantize.judge import Choices, Judge
from whet.quantize.scores import Score

Progress = Callable[[str, int, int], None]


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layer.

    Attributes:
        name: the node.
        op: its operator.
        own_error: distance of the outputs from the float model's with this layer alone quantised.
        own_value: the metric then.
        choice: what became of it.
    """

    name: str
    op: str
    own_error: float
    own_value: float
    choice: str


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One variant that was judged.

    Attributes:
        step: ``all``, ``bisect``, ``return`` or ``finer``.
        float_layers: how many layers were left in float.
        layer: the layer that was tried, if it was one.
        value: of the metric.
        drop: of the metric, against the float model.
        accepted: whether the target held.
    """

    step: str
    float_layers: int
    layer: str = ""
    value: float
    drop: float
    accepted: bool


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a target was reached.

    Attributes:
        max_drop: the largest drop allowed.
        float_value: the metric of the float model.
        value: that of the result.
        drop: the difference.
        error: distance of the result's outputs from the float model's.
        ranking: all layers, the most sensitive first; empty if nothing had to be rolled back.
        trials: variants in the order in which they were judged.
        choices: what became of each layer.
    """

    max_drop: float
    float_value: float
    value: float
    drop: float
    error: float
    ranking: tuple[LayerRecord, ...]
    trials: tuple[Trial, ...]
    choices: dict[str, str]


def check_drop(max_drop: float) -> None:
    """Check that a target can be asked for.

    Raises:
        OptionError: it is negative or no number.
    """
    if not 0 <= max_drop < float("inf"):
        raise OptionError(
            f"the largest drop is {max_drop}", where="max_drop", hint="give 0 or more, such as 0.5%"
        )


@dataclass(frozen=True, slots=True)
class Search:
    """The search for one model.

    Attributes:
        judge: scores variants; it has begun already.
        layers: name and operator of the layers that may be quantised.
        base: score of the float model.
        limit: the largest drop of the metric allowed.
        finer: layers that can have a grid for each channel and do not yet.
        low: the choice of a quantised layer.
        progress: called as ``progress(stage, done, total)``.
        trials: what was judged.
    """

    judge: Judge
    layers: Sequence[tuple[str, str]]
    base: Score
    limit: float
    finer: frozenset[str] = frozenset()
    low: str = "int8"
    progress: Progress = lambda stage, done, total: None
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> TargetReport:
        """Return the variant that holds the target with the fewest layers left in float.

        Raises:
            UnsupportedError: it holds only if every layer is left in float.
        """
        everything = dict.fromkeys((name for name, _ in self.layers), self.low)
        if self._holds("all", everything):
            return self._report(everything, ())
        ranking = self.rank()
        order = [record.name for record in ranking]
        choices = self._prefix(everything, order)
        choices = self._returned(choices, order)
        if all(choice == "float" for choice in choices.values()):
            raise UnsupportedError(
                f"a drop of at most {self.limit:g} leaves every layer in float",
                where="max_drop",
                hint="allow a larger drop, or try another calibrator or per_channel",
            )
        return self._report(choices, ranking)

    def rank(self) -> list[LayerRecord]:
        """Return the layers by their own error, the largest first."""
        found: list[LayerRecord] = []
        for number, (name, op) in enumerate(self.layers):
            alone = {other: "float" for other, _ in self.layers} | {name: self.low}
            own = self.judge.judge(alone)
            found.append(
                LayerRecord(
                    name=name, op=op, own_error=own.error, own_value=own.value, choice=self.low
                )
            )
            self.progress("sensitivity", number + 1, len(self.layers))
        return sorted(found, key=lambda r: (-r.own_error, r.own_value, r.name))

    def _prefix(self, everything: Choices, order: list[str]) -> dict[str, str]:
        """Return the choices with the shortest prefix in float that holds, found by bisection."""
        low, high = 0, len(order)  # all but those of the prefix: fails at low, holds at high
        while high - low > 1:
            middle = (low + high) // 2
            trial = {**everything, **dict.fromkeys(order[:middle], "float")}
            if self._holds("bisect", trial):
                high = middle
            else:
                low = middle
            self.progress("bisect", len(order) - (high - low), len(order))
        return {**everything, **dict.fromkeys(order[:high], "float")}

    def _returned(self, choices: dict[str, str], order: list[str]) -> dict[str, str]:
        """Quantise single layers again where the target still holds, the least sensitive first."""
        back = [name for name in reversed(order) if choices[name] == "float"]
        for number, name in enumerate(back):
            steps = [("return", self.low)]
            if name in self.finer:
                steps.append(("finer", "finer"))
            for step, choice in steps:
                if self._holds(step, {**choices, name: choice}, name):
                    choices = {**choices, name: choice}
                    break
            self.progress("return", number + 1, len(back))
        return choices

    def _holds(self, step: str, choices: Choices, layer: str = "") -> bool:
        found = self.judge.judge(choices)
        drop = self.base.value - found.value
        holds = drop <= self.limit
        self.trials.append(
            Trial(
                step=step,
                float_layers=sum(c == "float" for c in choices.values()),
                layer=layer,
                value=found.value,
                drop=drop,
                accepted=holds,
            )
        )
        return holds

    def _report(self, choices: Choices, ranking: Sequence[LayerRecord]) -> TargetReport:
        final = self.judge.judge(choices)
        rows = [msgspec.structs.replace(r, choice=choices[r.name]) for r in ranking]
        return TargetReport(
            max_drop=self.limit,
            float_value=self.base.value,
            value=final.value,
            drop=self.base.value - final.value,
            error=final.error,
            ranking=tuple(rows),
            trials=tuple(self.trials),
            choices=dict(choices),
        )


def parse_drop(text: str) -> float:
    """Read ``0.5%`` or ``0.005``.

    Raises:
        OptionError: it is neither.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        raise OptionError(
            f"{text!r} is no drop", where="max_drop", hint="such as 0.5% or 0.005"
        ) from None
    check_drop(value)
    return value

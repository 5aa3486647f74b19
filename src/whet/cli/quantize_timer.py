"""The clock of ``whet quantize --measured``: two graphs, call by call in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

import whet
from whet.measure.runner import Inputs, Outputs
from whet.measure.versus import Ends, compare_runners
from whet.options import Options
from whet.quantize.measured import Timing

_ROUNDS = 120
"""Most rounds of one comparison: many layers are tried."""


@dataclass(slots=True)
class _Timed:
    """A compiled graph that remembers its best time."""

    name: str
    program: Any
    best_s: float = float("inf")

    def prepare(self) -> None:
        """Do nothing: the graph is compiled."""

    def run(self, inputs: Inputs) -> Outputs:
        """Run once."""
        start = time.perf_counter()
        outputs: Outputs = self.program.run(inputs)
        self.best_s = min(self.best_s, time.perf_counter() - start)
        return outputs


@dataclass(frozen=True, slots=True)
class GraphTimer:
    """Times graphs on some inputs.

    Attributes:
        options: how they are compiled.
        inputs: feeds that rounds take in turn.
        rounds: most rounds of a comparison.
        kept: the graphs of the last comparison, compiled: one of them often comes again.
    """

    options: Options
    inputs: Sequence[Inputs]
    rounds: int = _ROUNDS
    kept: list[tuple[ir.Model, Any]] = field(default_factory=list)

    def __call__(self, first: ir.Model, second: ir.Model) -> Timing:
        """Time two graphs against each other."""
        programs = [(model, self._compiled(model)) for model in (first, second)]
        self.kept[:] = programs
        a, b = (
            _Timed(name, program)
            for name, (_, program) in zip(("first", "second"), programs, strict=True)
        )
        found = compare_runners(a, b, self.inputs, Ends(rounds=self.rounds))
        differs = found.verdict != "no significant difference"
        return Timing(a.best_s, b.best_s, found.ratio, differs)

    def _compiled(self, model: ir.Model) -> Any:
        for known, program in self.kept:
            if known is model:
                return program
        return whet.compile(model, options=self.options)

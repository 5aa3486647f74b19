"""The outputs of a program against golden ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from whet.errors import InputError
from whet.measure.accuracy.limits import Breach, Limits, find_breaches
from whet.measure.accuracy.metrics import Metrics, measure_error
from whet.measure.accuracy.reference import Golden

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""A program: takes and gives arrays by name."""


class OutputReport(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a program.

    Attributes:
        name: of the output.
        metrics: its difference from the golden output.
        breaches: the metrics beyond their limits; none means that it is right.
        found_as: what the program calls it, where no name is shared and order decided; else empty.
    """

    name: str
    metrics: Metrics
    breaches: tuple[Breach, ...]
    found_as: str = ""

    @property
    def note(self) -> str:
        """What to know about the comparison; empty if there is nothing."""
        if not self.found_as:
            return ""
        return f"compared with {self.found_as!r} by position, as no output has a golden name"


def verify_outputs(
    found: Mapping[str, Array], golden: Golden, limits: Limits | None = None
) -> tuple[OutputReport, ...]:
    """Compare all outputs by name; where no name is shared and counts agree, by position.

    Raises:
        InputError: golden and found outputs cannot be matched.
    """
    pairs = _match(found, golden)
    reports = []
    for name, mine in pairs:
        metrics = measure_error(np.asarray(found[mine]), golden.values[name])
        breaches, found_as = find_breaches(metrics, limits), "" if mine == name else mine
        reports.append(
            OutputReport(name=name, metrics=metrics, breaches=breaches, found_as=found_as)
        )
    return tuple(reports)


def passed(reports: tuple[OutputReport, ...]) -> bool:
    """Whether no output breaches a limit."""
    return not any(report.breaches for report in reports)


def _match(found: Mapping[str, Array], golden: Golden) -> list[tuple[str, str]]:
    shared = [name for name in golden.values if name in found]
    if shared and len(shared) == len(golden.values):
        return [(name, name) for name in shared]
    if not shared and len(found) == len(golden.values) and found:
        return list(zip(golden.values, found, strict=True))
    missing = [name for name in golden.values if name not in found]
    raise InputError(
        f"the outputs differ by name: {', '.join(missing) or 'none'} of the golden ones is missing",
        where=golden.source,
        hint=f"the program gives {', '.join(found)}",
    )

"""How a program fails: a wrong output, or an error of the compiler; and when two failures agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from whet.errors import WhetError
from whet.measure.accuracy.limits import Limits
from whet.measure.accuracy.recipe import Recipe, Source
from whet.measure.accuracy.reference import Golden
from whet.measure.accuracy.verify import verify_outputs

Array = np.ndarray[Any, Any]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure.

    Attributes:
        kind: ``wrong`` result, or ``error`` of the compiler or the run.
        message: what is wrong, for people.
        signature: what stays the same when other nodes of the model go.
    """

    kind: Literal["wrong", "error"]
    message: str
    signature: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a program is asked.

    Attributes:
        feeds: an array for each input.
        golden: the right outputs.
        limits: limits by metric; defaults by type if not given.
    """

    feeds: Mapping[str, Array]
    golden: Golden
    limits: Limits | None = None


def find_failure(recipe: Recipe, source: Source, question: Question) -> Failure | None:
    """Compile and run a model; return how it fails, or ``None`` if it does not.

    A model that is missing or a feed that does not fit fails like everything else: ask about
    models that are known to be whole.
    """
    try:
        found = recipe.run(source, question.feeds)
    except WhetError as error:
        return Failure(
            kind="error",
            message=" ".join(str(error).split()),
            signature=f"{error.code} {_shape_of(error.message)}",
        )
    reports = verify_outputs(found, question.golden, question.limits)
    for report in reports:
        if report.breaches:
            breach = report.breaches[0]
            return Failure(
                kind="wrong",
                message=f"output {report.name}: {breach.metric} is {breach.value}, "
                f"the limit {breach.limit}",
                signature="wrong",
            )
    return None


def _shape_of(message: str) -> str:
    """Return the first words of a message without names and numbers."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "_", message)
    return " ".join(plain.split()[:6])


def same_failure(first: Failure | None, second: Failure | None) -> bool:
    """Whether both fail, and alike."""
    return first is not None and second is not None and first.signature == second.signature

"""What a quantised model is worth: a metric of its outputs, and their distance from the float's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, OptionError
from whet.words import counted

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
Metric = Callable[[Outputs, Outputs, Array | None], float]
"""Of outputs, the float model's outputs and labels: larger is better, 1 is perfect."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good a variant is.

    Attributes:
        value: of the metric.
        error: distance from the float outputs over their length, Euclidean, the mean of outputs.
    """

    value: float
    error: float


def top1(outputs: Outputs, references: Outputs, labels: Array | None) -> float:
    """Return the share of samples whose largest output is right.

    Right is the label where there are labels, else what the float model says.
    """
    name = next(iter(outputs))
    chosen = _classes(outputs[name])
    right = _classes(references[name]) if labels is None else _numbers(labels, outputs[name])
    if chosen.shape != right.shape:
        raise InputError(
            f"{counted(right.size, 'label')} for {counted(chosen.size, 'result')}", where="labels"
        )
    return float((chosen == right).mean())


def _numbers(labels: Array, scores: Array) -> Array:
    """Return labels as numbers of classes; others would all be wrong, for every model alike."""
    right, classes = np.asarray(labels).reshape(-1), scores.reshape(len(scores), -1).shape[1]
    if right.dtype.kind not in "iufb" or not np.isin(right, np.arange(classes)).all():
        raise InputError(
            f"labels are not numbers of classes from 0 to {classes - 1}",
            where="labels",
            hint="say which output is right, or leave labels out",
        )
    return right


def _classes(scores: Array) -> Array:
    return np.asarray(scores.reshape(len(scores), -1).argmax(axis=1))


def cosine(outputs: Outputs, references: Outputs, labels: Array | None) -> float:
    """Return the mean cosine between the outputs of a sample and those of the float model.

    Texts have none; where all outputs are texts the cosine is 1. That of outputs of another shape,
    as what a model selects may have, is 0.
    """
    found = [
        _cosines(outputs[name], golden)
        for name, golden in references.items()
        if golden.dtype != object
    ]
    return float(np.mean(found)) if found else 1.0


def _cosines(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return 0.0
    left = a.reshape(len(a), -1).astype(np.float64)
    right = b.reshape(len(b), -1).astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    dots = (left * right).sum(axis=1)
    same = (left == right).all(axis=1)
    return float(np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1.0), same).mean())


_SIGNATURE = "it takes outputs, the float model's outputs and labels, and gives a number"

METRICS: dict[str, Metric] = {"top1": top1, "cosine": cosine}
"""Metrics by name."""


def find_metric(text: str | Metric) -> Metric:
    """Return a metric: a function, one by name, or ``file.py:function``, whose file is executed.

    Raises:
        OptionError: there is none.
    """
    if callable(text):
        return _guarded(text, "metric")
    if not isinstance(text, str):
        raise OptionError(f"a metric is no {type(text).__name__}", hint=_SIGNATURE)
    if text in METRICS:
        return METRICS[text]
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise OptionError(
            f"there is no metric {text!r}", hint=f"give {', '.join(METRICS)} or FILE.py:FUNCTION"
        )
    spec = importlib.util.spec_from_file_location("whet_custom_metric", path)
    if spec is None or spec.loader is None or not Path(path).exists():
        raise OptionError("cannot read the file of the metric", where=path, hint="check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise OptionError(
            f"the file of the metric fails: {type(error).__name__}: {error}",
            where=path,
            hint="run it with python",
        ) from error
    if not callable(getattr(module, name, None)):
        raise OptionError(
            f"there is no function {name!r}", where=path, hint="give FILE.py:FUNCTION"
        )
    return _guarded(getattr(module, name), text)


def metric_source(text: str | Metric) -> bytes:
    """Return what tells a metric from others: its name, or the file of one's own.

    A function may read anything, so that what it found is kept for this very object alone.
    """
    if not isinstance(text, str):
        return f"{text!r} of process {os.getpid()}".encode()
    path = text.rpartition(":")[0]
    return text.encode() + (b"" if text in METRICS else Path(path).read_bytes())


def _guarded(function: Callable[..., Any], where: str) -> Metric:
    """Return a metric that turns what goes wrong in a user's function into one clear error."""

    def metric(outputs: Outputs, references: Outputs, labels: Array | None) -> float:
        try:
            given = None if labels is None else _locked({"": labels})[""]
            found = float(function(_locked(outputs), _locked(references), given))
        except (Exception, SystemExit) as error:
            raise OptionError(
                f"the metric fails: {type(error).__name__}: {error}",
                where=where,
                hint=_SIGNATURE,
            ) from error
        return found

    return metric


def joined_labels(parts: Sequence[Array]) -> Array | None:
    """Return the labels of several batches as one array; ``None`` if there are none.

    Raises:
        InputError: their shapes differ in more than the number of samples.
    """
    shapes = sorted({array.shape[1:] for array in parts})
    if len(shapes) > 1:
        raise InputError(
            f"labels have the shapes {list(shapes[0])} and {list(shapes[-1])}",
            where="evaluation",
            hint="give all samples labels of one shape",
        )
    return np.concatenate(parts) if parts else None


def _locked(outputs: Outputs) -> dict[str, Array]:
    """Return arrays that nobody can write to: all variants are compared with the same."""
    made = {name: array.view() for name, array in outputs.items()}
    for array in made.values():
        array.flags.writeable = False
    return made


def score(metric: Metric, outputs: Outputs, references: Outputs, labels: Array | None) -> Score:
    """Judge the outputs of a variant; one that is no number is worse than all others."""
    value = metric(outputs, references, labels)
    return Score(-np.inf if np.isnan(value) else value, distance(outputs, references))


def distance(outputs: Outputs, references: Outputs) -> float:
    """Return ``|a - g| / |g|``, the mean over outputs of floats.

    It is infinite if one is not finite, or has another shape, as what a model selects may.
    """
    found = [
        _relative(outputs[name], golden)
        for name, golden in references.items()
        if golden.dtype.kind == "f"
    ]
    return float(np.mean(found)) if found else 0.0


def _relative(a: Array, g: Array) -> float:
    if a.shape != g.shape:
        return float("inf")
    left, right = a.astype(np.float64), g.astype(np.float64)
    if not np.isfinite(left).all():
        return float("inf")
    length = float(np.linalg.norm(right))
    return float(np.linalg.norm(left - right)) / (length or 1.0)


def joined(parts: Sequence[Outputs]) -> dict[str, Array]:
    """Return the outputs of several batches as one.

    Raises:
        InputError: their shapes differ in more than the number of samples.
    """
    made = {}
    for name in parts[0]:
        arrays = [np.atleast_1d(part[name]) for part in parts]
        shapes = sorted({array.shape[1:] for array in arrays})
        if len(shapes) > 1:
            raise InputError(
                f"{name!r} has samples of {len(shapes)} shapes, such as {list(shapes[0])} and "
                f"{list(shapes[-1])}, which no metric compares as one array",
                where="evaluation",
                hint="evaluate on samples of one shape",
            )
        made[name] = np.concatenate(arrays)
    return made

"""Judging variants of one model on the same data, each variant once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from whet.driver import compile as compile_model
from whet.errors import ArtifactError, InputError, OptionError
from whet.options import Options
from whet.quantize.data import CalibrationData, array_bytes
from whet.quantize.scores import (
    Metric,
    Outputs,
    Score,
    distance,
    joined,
    joined_labels,
    score,
    top1,
)
from whet.whole_files import write_bytes
from whet.words import counted

Array = np.ndarray[Any, Any]
Choices = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What variants of a model are judged on.

    Attributes:
        data: what they run on.
        metric: what their outputs are judged by.
        options: how they are compiled.
    """

    data: CalibrationData
    metric: Metric
    options: Options

    def baseline(self, base: ir.Model) -> Baseline:
        """Run the float model, whose outputs those of variants are compared with.

        Nothing else is needed for it, so that data and metrics of no use are found first.

        Raises:
            InputError: the data does not fit, only some of its samples have labels, or none of
                the labels is what the model says.
            OptionError: the metric fails, or finds no finite number.
        """
        references, labels, samples = self.run(base)
        value = self.metric(references, references, labels)
        if not np.isfinite(value):
            raise OptionError(
                f"the metric of the float model is {value}",
                where="metric",
                hint="give a metric that finds a finite number in its outputs",
            )
        if self.metric is top1 and not value:
            raise InputError(
                f"the float model is right for none of {counted(samples, 'sample')}",
                where=self.data.name,
                hint="give labels by the order of the model's outputs, or none",
            )
        error = distance(references, references)
        return Baseline(references, labels, samples, Score(value, error))

    def run(self, model: ir.Model) -> tuple[dict[str, Array], Array | None, int]:
        """Return what a model gives for all of the data, the labels, and how many samples ran."""
        program = compile_model(model, options=self.options)
        parts: list[Outputs] = []
        labels: list[Array] = []
        labelled = samples = 0
        for batch in self.data.batches():
            parts.append(program.run(batch.feeds))
            samples += len(next(iter(batch.feeds.values())))
            labelled += batch.labelled
            if batch.labels is not None:
                labels.append(batch.labels)
        if 0 < labelled < samples:
            raise InputError(
                f"{labelled} of {samples} samples have labels",
                where=self.data.name,
                hint="give all samples labels, or none",
            )
        return joined(parts), joined_labels(labels), samples


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the float model gives.

    Attributes:
        references: its outputs.
        labels: what is right, one a sample; ``None`` where that is not known.
        samples: how many there are.
        score: of the outputs, judged as those of a variant are.
    """

    references: dict[str, Array]
    labels: Array | None
    samples: int
    score: Score

    def digest(self) -> str:
        """Return a hash of it: of other data or models it is another."""
        made = hashlib.sha256()
        arrays = {**self.references, "": np.asarray(self.labels)}
        for name, array in sorted(arrays.items()):
            made.update(f"{name} {array.dtype} {array.shape}".encode())
            made.update(array_bytes(array))
        return made.hexdigest()


@dataclass(slots=True)
class Judge:
    """Scores of variants, by what becomes of each layer.

    Attributes:
        evaluation: what they are judged on.
        baseline: what they are compared with.
        write: makes the variant of some choices.
        memory: file that scores are kept in, so that an interrupted search goes on.
        key: what a kept score must have in common with a new one.
        known: scores that are known already.
    """

    evaluation: Evaluation
    baseline: Baseline
    write: Callable[[Choices], ir.Model]
    memory: Path | None = None
    key: str = ""
    known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def judge(self, choices: Choices) -> Score:
        """Return the score of a variant.

        Raises:
            InputError: there are fewer samples than when the float model ran, or more.
        """
        label = self._label(choices)
        if label not in self.known:
            outputs, _, samples = self.evaluation.run(self.write(choices))
            base = self.baseline
            if samples != base.samples:
                raise InputError(
                    f"the data has {counted(samples, 'sample')} now, {base.samples} before",
                    where=self.evaluation.data.name,
                    hint="give data that is the same whenever it is read",
                )
            found = score(self.evaluation.metric, outputs, base.references, base.labels)
            self.known[label] = (found.value, found.error)
            if self.memory is not None:
                _write(self.memory, self.known)
        return Score(*self.known[label])

    def _label(self, choices: Choices) -> str:
        text = msgspec.json.encode([self.key, sorted(choices.items())])
        return hashlib.sha256(text).hexdigest()


def read_scores(path: Path | None) -> dict[str, tuple[float, float]]:
    """Return the scores that a file keeps; none if there is no file.

    Raises:
        ArtifactError: it is damaged.
    """
    if path is None or not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[float, float]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"not a file of scores: {error}", where=str(path), hint="delete it and start again"
        ) from error


def _write(path: Path, known: Mapping[str, tuple[float, float]]) -> None:
    finite = {k: v for k, v in known.items() if np.isfinite(v).all()}
    write_bytes(path, msgspec.json.encode(finite))

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
from whet.errors import ArtifactError
from whet.options import Options
from whet.quantize.data import CalibrationData, array_bytes
from whet.quantize.scores import Metric, Outputs, Score, joined, score
from whet.whole_files import write_bytes

Array = np.ndarray[Any, Any]
Choices = Mapping[str, str]


@dataclass(slots=True)
class Judge:
    """Scores of variants, by what becomes of each layer.

    Attributes:
        data: what variants run on.
        metric: what their outputs are judged by.
        options: how they are compiled.
        write: makes the variant of some choices.
        memory: file that scores are kept in, so that an interrupted search goes on.
        key: what a kept score must have in common with a new one.
    """

    data: CalibrationData
    metric: Metric
    options: Options
    write: Callable[[Choices], ir.Model]
    memory: Path | None = None
    key: str = ""
    references: dict[str, Array] = field(default_factory=dict)
    labels: Array | None = None
    known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def begin(self, base: ir.Model) -> Score:
        """Run the float model, whose outputs the others are compared with; return its score."""
        self.references, self.labels = self._run(base)
        if self.memory is not None:
            self.key += _digest(self.references, self.labels)
        if self.memory is not None and self.memory.exists():
            self.known = _read(self.memory)
        return score(self.metric, self.references, self.references, self.labels)

    def judge(self, choices: Choices) -> Score:
        """Return the score of a variant."""
        label = self._label(choices)
        if label not in self.known:
            outputs, _ = self._run(self.write(choices))
            found = score(self.metric, outputs, self.references, self.labels)
            self.known[label] = (found.value, found.error)
            if self.memory is not None:
                _write(self.memory, self.known)
        return Score(*self.known[label])

    def _label(self, choices: Choices) -> str:
        text = msgspec.json.encode([self.key, sorted(choices.items())])
        return hashlib.sha256(text).hexdigest()

    def _run(self, model: ir.Model) -> tuple[dict[str, Array], Array | None]:
        program = compile_model(model, options=self.options)
        parts: list[Outputs] = []
        labels: list[Array] = []
        for batch in self.data.batches():
            parts.append(program.run(batch.feeds))
            if batch.labels is not None:
                labels.append(batch.labels)
        whole = labels and len(labels) == len(parts)
        return joined(parts), np.concatenate(labels) if whole else None


def _digest(references: Mapping[str, Array], labels: Array | None) -> str:
    """Return a hash of what variants are compared with: of other data or models it is another."""
    made = hashlib.sha256()
    for name, array in sorted({**references, "": np.asarray(labels)}.items()):
        made.update(f"{name} {array.dtype} {array.shape}".encode())
        made.update(array_bytes(array))
    return made.hexdigest()


def _read(path: Path) -> dict[str, tuple[float, float]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[float, float]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"not a file of scores: {error}", where=str(path), hint="delete it and start again"
        ) from error


def _write(path: Path, known: Mapping[str, tuple[float, float]]) -> None:
    finite = {k: v for k, v in known.items() if np.isfinite(v).all()}
    write_bytes(path, msgspec.json.encode(finite))

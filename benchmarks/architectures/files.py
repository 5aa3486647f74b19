"""Where exported models, PyTorch's answers and failures lie."""

from __future__ import annotations

from pathlib import Path

import msgspec

MAX_REASON = 300


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an architecture was not compared, or not with success.

    Attributes:
        stage: build, export, compile, run or compare.
        reason: one line.
    """

    stage: str
    reason: str


def model_path(cache: Path, name: str, exporter: str) -> Path:
    """Return where an exported model lies."""
    return cache / f"{name}.{exporter}.onnx"


def answers_path(cache: Path, name: str) -> Path:
    """Return where PyTorch's inputs and outputs lie."""
    return cache / f"{name}.npz"


def failure_path(model: Path) -> Path:
    """Return where the failure to export a model is remembered."""
    return model.with_suffix(".json")


def write_failure(model: Path, failure: Failure) -> None:
    """Remember why a model could not be exported."""
    line = " ".join(failure.reason.split())[:MAX_REASON]
    failure_path(model).write_bytes(msgspec.json.encode(Failure(stage=failure.stage, reason=line)))


def read_failure(model: Path) -> Failure | None:
    """Return why a model could not be exported, or ``None``."""
    path = failure_path(model)
    return msgspec.json.decode(path.read_bytes(), type=Failure) if path.exists() else None

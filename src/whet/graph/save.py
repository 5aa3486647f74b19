"""Writing large graphs: the weights go to a file beside the model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir

from whet.errors import ArtifactError

LARGE_BYTES = 1 << 30
"""Weights of larger models go to a file of their own: ONNX files end at 2 GiB."""


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of a graph's constants."""
    tensors = (v.const_value for v in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None)


def save_beside(model: ir.Model, path: Path) -> None:
    """Write a model and its weights to ``path`` and ``<name>.data``, both whole or neither.

    Raises:
        ArtifactError: they cannot be written.
    """
    data = f"{path.name}.data"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".whet-") as name:
            folder = Path(name)
            ir.save(model, folder / path.name, external_data=data)
            for file in (data, path.name):  # the model last: it names the weights
                _flush(folder / file)
                os.replace(folder / file, path.parent / file)
    except OSError as error:
        raise ArtifactError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            hint="check space and permissions",
        ) from error


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

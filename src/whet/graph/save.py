"""Graphs as ONNX files; the weights of large ones go to a file beside the model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from whet.errors import ArtifactError
from whet.whole_files import is_stream, write_bytes, write_errors

LARGE_BYTES = 1 << 30
"""Weights of larger models go to a file of their own: ONNX files end at 2 GiB."""


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of a graph's constants."""
    tensors = (v.const_value for v in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None)


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph as an ONNX file, whole or not at all; large weights go to a file beside it.

    Raises:
        ArtifactError: it cannot be written.
    """
    if weight_bytes(model) > LARGE_BYTES:
        _save_beside(model, path)
    else:
        write_bytes(path, ir.to_proto(model).SerializeToString(deterministic=True))


def save_proto(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, whole or not at all; large weights go to a file beside it.

    Raises:
        ArtifactError: it cannot be written.
    """
    if sum(len(t.raw_data) for t in model.graph.initializer) > LARGE_BYTES:
        _save_beside(ir.from_proto(model), path)
    else:
        write_bytes(path, model.SerializeToString(deterministic=True))


def _save_beside(model: ir.Model, path: Path) -> None:
    """Write a model and its weights to ``path`` and ``<name>.data``, both whole or neither."""
    if is_stream(path):
        raise ArtifactError(
            "weights of this size go to a file beside the model",
            where=str(path),
            hint="name a file",
        )
    data = f"{path.name}.data"
    with (
        write_errors(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".whet-") as name,
    ):
        folder = Path(name)
        ir.save(model, folder / path.name, external_data=data)
        for file in (data, path.name):
            _flush(folder / file)
        for file in (data, path.name):  # the model last: it names the weights
            os.replace(folder / file, path.parent / file)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

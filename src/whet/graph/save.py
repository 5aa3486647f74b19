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
    """Return the bytes of a model's constants, those of bodies too."""
    tensors = (v.const_value for g in model.graphs() for v in g.initializers.values())
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
    if _raw_bytes(model.graph) > LARGE_BYTES:
        _save_beside(ir.from_proto(model), path)
    else:
        write_bytes(path, model.SerializeToString(deterministic=True))


def _raw_bytes(graph: onnx.GraphProto) -> int:
    """Return the bytes of the constants of a graph, and of bodies in it."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    bodies = [body for a in attributes for body in (*a.graphs, *([a.g] if a.HasField("g") else []))]
    own = sum(len(tensor.raw_data) for tensor in graph.initializer)
    return own + sum(_raw_bytes(body) for body in bodies)


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

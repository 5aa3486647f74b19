"""Writing a graph as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from whet.cli import output

_LARGE_BYTES = 1 << 30
"""Weights of larger models go to a file beside the model."""


def save_graph(model: ir.Model, path: Path) -> None:
    """Write the model, whole or not at all; large weights go to a file beside it."""
    weights = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if weights > _LARGE_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    data = ir.to_proto(model).SerializeToString(deterministic=True)
    output.write_whole(path, lambda file: file.write(data))

"""Writing a graph as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from whet.cli import output
from whet.graph.save import LARGE_BYTES, save_beside, weight_bytes


def save_graph(model: ir.Model, path: Path) -> None:
    """Write the model, whole or not at all; large weights go to a file beside it."""
    if weight_bytes(model) > LARGE_BYTES:
        save_beside(model, path)
        return
    data = ir.to_proto(model).SerializeToString(deterministic=True)
    output.write_whole(path, lambda file: file.write(data))

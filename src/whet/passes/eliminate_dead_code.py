"""Removal of nodes and constants that no output depends on."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import remove_dead


def eliminate_dead_code(model: ir.Model) -> int:
    """Remove unused nodes and constants; return how many."""
    return remove_dead(model)

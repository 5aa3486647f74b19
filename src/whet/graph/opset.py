"""The canonical opset: the newest one of the installed ``onnx``."""

from __future__ import annotations

import onnx.defs

WHET_DOMAIN = "whet"
"""Domain of the fused operators that ONNX has no name for."""

PREVIEW_DOMAIN = "ai.onnx.preview"
"""Domain of standard operators that may still change."""

ONNX_DOMAINS = ("", "ai.onnx")
"""The two spellings of the standard domain."""


def canonical_opset() -> int:
    """Return the opset version that every graph has between load and lowering."""
    return onnx.defs.onnx_opset_version()


def has_operator(op_type: str, version: int) -> bool:
    """Tell whether the standard domain has ``op_type`` at ``version``."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    return not schema.deprecated

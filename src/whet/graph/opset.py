"""The canonical opset: the newest one of the installed ``onnx``."""

from __future__ import annotations

import onnx.defs

WHET_DOMAIN = "whet"
"""Domain of the fused operators that ONNX has no name for."""

PREVIEW_DOMAIN = "ai.onnx.preview"
"""Domain of standard operators that may still change."""

ONNX_DOMAINS = ("", "ai.onnx")
"""The two spellings of the standard domain."""

TRAINING_DOMAIN = "ai.onnx.preview.training"
"""Domain of the optimisers that ONNX defines."""


def canonical_opset() -> int:
    """Return the opset version that every graph has between load and lowering."""
    return onnx.defs.onnx_opset_version()


def has_operator(op_type: str, version: int, domain: str = "") -> bool:
    """Tell whether a domain of ONNX, the standard one by default, has ``op_type``."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return not schema.deprecated

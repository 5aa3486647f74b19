"""Quantised models that others wrote: kept files, and those that ONNX Runtime writes here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from whet.tests.quantized_models import norm_net, residual_net

FOLDER = Path(__file__).parent / "data" / "quantised"
"""What ``scripts/write_quantised_models.py`` wrote."""

KEPT: dict[str, tuple[str, ...]] = {
    "nncf_convolutions": (), "pt2e_convolutions": (), "fx_convolutions": (),
    "nncf_block": ("MatMul",), "pt2e_block": ("MatMul", "MatMul"), "fx_block": ("MatMul",),
}  # fmt: skip
"""Kept files, and the products whose operands their writers left in float: those of attention."""

WRITTEN: dict[str, tuple[str, dict[str, Any] | None]] = {
    "qdq": ("residual", {"per_channel": True}),
    "qdq_signed": ("residual", {"activation_type": "QInt8"}),
    "qdq_dense": ("norm", {"per_channel": True}),
    "qoperator": ("residual", {"quant_format": "QOperator"}),
    "qoperator_unsigned": ("norm", {
        "quant_format": "QOperator", "activation_type": "QUInt8", "weight_type": "QUInt8"}),
    "dynamic": ("residual", None),
    "dynamic_dense": ("norm", None),
}  # fmt: skip
"""What ONNX Runtime writes: the network and the settings; ``None`` for dynamic quantisation."""

_NETS: dict[str, Any] = {"residual": (residual_net, (3, 9, 7)), "norm": (norm_net, (4, 16))}


class Reader:
    """Calibration data as ONNX Runtime asks for it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(3)
        self._left = [rng.standard_normal((1, *shape), np.float32) for _ in range(16)]

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, ``None`` behind the last."""
        return {"x": self._left.pop()} if self._left else None


def written(name: str, folder: Path) -> onnx.ModelProto:
    """Let ONNX Runtime quantise a network."""
    from onnxruntime import quantization as ort

    net, settings = WRITTEN[name]
    build, shape = _NETS[net]
    before, after = str(folder / "float.onnx"), folder / "quantised.onnx"
    onnx.save(build(np.random.default_rng(5)), before)
    if settings is None:
        ort.quantize_dynamic(before, str(after), per_channel=True)
    else:
        kinds = {k: getattr(ort.QuantType, v) for k, v in settings.items() if k.endswith("_type")}
        form = getattr(ort.QuantFormat, settings.get("quant_format", "QDQ"))
        each = bool(settings.get("per_channel"))
        ort.quantize_static(
            before, str(after), Reader(shape), quant_format=form, per_channel=each, **kinds
        )
    return onnx.load(after)

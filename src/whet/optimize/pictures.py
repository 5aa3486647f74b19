"""A model that takes pictures as bytes, as an ONNX file of its own, for any runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping

import onnx_ir as ir

from whet.frontend.load import load_model
from whet.frontend.preprocess.aipp import read_preprocess
from whet.frontend.preprocess.attach import attach_preprocess
from whet.optimize.opset import lower_opset


def with_preprocess(
    source: str | os.PathLike[str],
    steps: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
) -> ir.Model:
    """Return a model with the steps of an AIPP file in front, as standard nodes.

    Args:
        source: path of an ONNX file.
        steps: path of the AIPP file.
        shapes: shapes of the model's own inputs, by name.

    Raises:
        WhetError: a file cannot be read, or the two do not go together.
    """
    read = read_preprocess(steps)
    model = load_model(source, shapes=shapes)
    attach_preprocess(model, read)
    lower_opset(model)
    return model

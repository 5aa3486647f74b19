"""Models written as text, for tests of control flow and of shapes that depend on data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser

import whet
from whet.runtime.model import CompiledModel

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parse(text: str) -> onnx.ModelProto:
    """Return a model from ONNX's text form, without the header."""
    return onnx.parser.parse_model(HEAD + text)


def compiled(text: str, **options: Any) -> CompiledModel:
    """Compile a model from ONNX's text form."""
    return whet.compile(parse(text), options=whet.Options(**{"threads": 1, **options}))


def check(model: CompiledModel, feeds: dict[str, Any], *expected: Any) -> None:
    """Compare all outputs of a run, exactly in type and shape, closely in value."""
    found = model({name: np.asarray(value) for name, value in feeds.items()})
    assert len(found) == len(expected)
    for (name, value), wanted in zip(found.items(), expected, strict=True):
        wanted = np.asarray(wanted)
        assert (value.dtype, value.shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=name)

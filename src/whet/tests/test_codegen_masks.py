"""Vectors of which only some lanes exist: nothing is read or written beside them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from whet.codegen.objects.targets import host_target
from whet.dtypes import numpy_dtype
from whet.tests.node_models import NodeModel, numbers

CASTS = (
    ("int32", "int8"),
    ("int32", "int16"),
    ("int64", "int32"),
    ("float32", "bfloat16"),
    ("float64", "float16"),
    ("int8", "int64"),
)


@pytest.mark.parametrize("extra", [1, 2, -1])
@pytest.mark.parametrize(("source", "target"), CASTS)
def test_the_last_vector_of_a_cast(source: str, target: str, extra: int) -> None:
    length = host_target().lanes + extra
    x = numbers(np.random.default_rng(length), (length,), source)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(numpy_dtype(target)))
    NodeModel("Cast", (x,), {"to": int(code)}).check([x.astype(numpy_dtype(target))])

"""Every operator against the examples that ONNX ships for it."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from whet.dtypes import DTYPES
from whet.ops.table import op_table
from whet.tests.ops_harness import check, run_node

# Examples that expect other bits than ours, and why.
REFUSED = {
    "test_bernoulli": "random",
    "test_bernoulli_double": "random",
    "test_bernoulli_seed": "random",
    "test_training_dropout_default": "training",
    "test_training_dropout_default_mask": "training",
    "test_training_dropout": "training",
    "test_training_dropout_mask": "training",
    "test_training_dropout_zero_ratio": "training",
    "test_training_dropout_zero_ratio_mask": "training",
}
NOT_HERE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@cache
def examples() -> dict[str, list[Any]]:
    """Return ONNX's one-node examples by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        graph = case.model.graph if case.model is not None else onnx.GraphProto()
        is_single = len(graph.node) == 1 and case.name not in REFUSED
        is_single = is_single and "opset19" not in case.name  # forms that loading upgrades
        if is_single and _has_supported_types(graph):
            found.setdefault(graph.node[0].op_type, []).append(case)
    return found


def _has_supported_types(graph: onnx.GraphProto) -> bool:
    for value in (*graph.input, *graph.output):
        if not value.type.HasField("tensor_type"):
            return False
        code = value.type.tensor_type.elem_type
        if code == onnx.TensorProto.STRING:
            return False
        if onnx.helper.tensor_dtype_to_np_dtype(code).name not in DTYPES:
            return False
    return True


OPERATORS = sorted(n for domain, n in op_table() if not domain and n not in NOT_HERE)


@pytest.mark.parametrize("op", OPERATORS)
def test_examples(op: str) -> None:
    cases = examples().get(op, [])
    if not cases:
        pytest.skip("ONNX has no example of one node")
    for case in cases:
        graph = case.model.graph
        for inputs, outputs in case.data_sets:
            arrays = {i.name: _array(a) for i, a in zip(graph.input, inputs, strict=True)}
            node = graph.node[0]
            found = run_node(node, arrays)
            wanted = [a for name, a in zip(node.output, found, strict=False) if name]
            assert len(wanted) == len(outputs), case.name
            limits = {"rtol": max(case.rtol, 1e-5), "atol": max(case.atol, 1e-6)}
            check(wanted, [_array(a) for a in outputs], **limits)


def _array(value: Any) -> Any:
    proto = isinstance(value, onnx.TensorProto)
    return numpy_helper.to_array(value) if proto else np.asarray(value)

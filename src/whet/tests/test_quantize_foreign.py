"""Quantised models that others wrote run in integers, with the results of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.dtypes import numpy_dtype
from whet.optimize.optimize import optimize_graph
from whet.tests.foreign_models import FOLDER, KEPT, WRITTEN, written
from whet.tests.quantized_models import norm_net, residual_net

Array = np.ndarray[Any, Any]
PRODUCTS = ("Conv", "MatMul", "Gemm")


def float_products(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(n.op_type for n in optimize_graph(model).model.graph if n.op_type in PRODUCTS)


def expected(model: onnx.ModelProto, x: Array) -> list[Array]:
    """Return what ONNX Runtime computes node by node.

    Its fused operators differ from the nodes that they replace by whole steps.
    """
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, {"x": x}))


def with_last_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the result of the last QuantizeLinear be a result of the model as well."""
    last = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    last += [n.output[0] for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"]
    if last:
        model.graph.output.append(onnx.ValueInfoProto(name=last[-1]))
        model = onnx.shape_inference.infer_shapes(model)
    return model


def check_agreement(model: onnx.ModelProto, seed: int) -> None:
    """Compare fresh inputs: bytes within one step and few of them, numbers within their share."""
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    compiled = whet.compile(model, shapes={"x": tuple(shape)})
    rng = np.random.default_rng(seed)
    for size in (0.3, 1.0, 4.0):  # the last saturates
        x = (size * rng.standard_normal(shape)).astype(np.float32)
        right, found = expected(model, x), list(compiled({"x": x}).values())
        moved = False
        for ours, theirs in zip(found[1:], right[1:], strict=True):
            steps = np.abs(ours.astype(int) - theirs.astype(int))
            assert steps.max() <= 1
            assert (steps > 0).mean() <= 0.02
            moved = bool(steps.any())
        share = 0.02 if moved else 1e-5
        assert np.abs(found[0] - right[0]).max() <= share * np.abs(right[0]).max()


@pytest.mark.peer
@pytest.mark.parametrize("name", KEPT)
def test_kept_files(name: str) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    assert float_products(model) == KEPT[name]
    check_agreement(with_last_bytes(model), len(name))


@pytest.mark.peer
@pytest.mark.parametrize("name", WRITTEN)
def test_what_onnx_runtime_writes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = written(name, tmp_path)
    assert float_products(model) == ()
    check_agreement(with_last_bytes(model), len(name))


def in_small_floats(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Return a quantised model whose floats, scales among them, are all of a small type."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(numpy_dtype(kind))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind.upper())
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("net", ["residual", "norm"])
def test_scales_of_small_floats_run_in_integers(net: str, kind: str) -> None:
    build, shape = {"residual": (residual_net, (3, 9, 7)), "norm": (norm_net, (4, 16))}[net]
    x = np.random.default_rng(1).standard_normal((16, *shape)).astype(np.float32)
    made = whet.quantize(build(np.random.default_rng(0)), x).model
    right = whet.compile(made)({"x": x})["y"]
    small = in_small_floats(made, kind)
    assert float_products(small) == ()
    found = whet.compile(small)({"x": x.astype(numpy_dtype(kind))})["y"]
    assert found.dtype == numpy_dtype(kind)
    share = np.linalg.norm(found.astype(np.float32) - right) / np.linalg.norm(right)
    assert share < (0.02 if kind == "float16" else 0.1)

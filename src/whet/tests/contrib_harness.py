"""One node of a foreign domain, run by ONNX Runtime and by Whet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import whet
from whet.tests.tolerance import assert_close

Array = np.ndarray[Any, np.dtype[Any]]

PEER_OPSET = 21
CONTRIB = "com.microsoft"
ML_OPSETS = {"LabelEncoder": 4, "TreeEnsemble": 5}
OPTIONS = whet.Options(threads=1, opt_level=2)


def model_of(
    op_type: str,
    inputs: Sequence[Array | None],
    outputs: int | Sequence[str] = 1,
    *,
    constants: Sequence[int] = (),
    domain: str = CONTRIB,
    open_dims: Mapping[int, Sequence[int | str]] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node; inputs at ``constants`` become initialisers.

    ``open_dims`` gives shapes of inputs whose dims may change from call to call.
    """
    names = ["" if a is None else f"x{k}" for k, a in enumerate(inputs)]
    found = [f"y{k}" for k in range(outputs)] if isinstance(outputs, int) else list(outputs)
    node = helper.make_node(op_type, names, found, name="node", domain=domain, **attributes)
    infos, weights = [], []
    for k, array in enumerate(inputs):
        if array is None:
            continue
        if k in constants:
            weights.append(numpy_helper.from_array(array, f"x{k}"))
        else:
            shape = (open_dims or {}).get(k, array.shape)
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(helper.make_tensor_value_info(f"x{k}", kind, shape))
    results = [onnx.ValueInfoProto(name=name) for name in found if name]
    graph = helper.make_graph([node], "one", infos, results, weights)
    imports = [helper.make_opsetid("", PEER_OPSET), helper.make_opsetid(CONTRIB, 1)]
    imports.append(helper.make_opsetid("ai.onnx.ml", ML_OPSETS.get(op_type, 3)))
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def feeds_of(model: onnx.ModelProto, inputs: Sequence[Array | None]) -> dict[str, Array]:
    """Return the arrays by the names of the model's inputs."""
    wanted = {i.name for i in model.graph.input}
    return {f"x{k}": a for k, a in enumerate(inputs) if a is not None and f"x{k}" in wanted}


def by_peer(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Return what ONNX Runtime computes, without its own rewrites."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(a) for a in session.run(None, dict(feeds))]


def by_whet(
    model: onnx.ModelProto | ir.Model, feeds: Mapping[str, Array], level: int = 2
) -> list[Array]:
    """Return what Whet computes."""
    compiled = whet.compile(model, options=whet.Options(threads=1, opt_level=level))
    return [np.asarray(a) for a in compiled.run(dict(feeds)).values()]


def agree(
    model: onnx.ModelProto,
    inputs: Sequence[Array | None],
    *,
    op_class: str = "graph",
    length: int = 1,
    scale: float = 1.0,
    steps: int = 0,
) -> list[Array]:
    """Compare Whet with ONNX Runtime and return the results.

    ``steps`` is by how much integers may differ, where both round numbers that are not equal in
    the last bit.
    """
    feeds = feeds_of(model, inputs)
    expected, found = by_peer(model, feeds), by_whet(model, feeds)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        if steps and a.dtype.kind in "iu":
            assert a.shape == b.shape
            assert np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0) <= steps
        else:
            assert_close(a, b, op_class, length=length, scale=scale)
    return found


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Array:
    """Return seeded float32 numbers."""
    return rng(seed).standard_normal(shape).astype(np.float32)


def bytes_of(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Array:
    """Return seeded integers over the whole range of a type."""
    info = np.iinfo(dtype)
    return rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)

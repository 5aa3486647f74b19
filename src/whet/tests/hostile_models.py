"""Small models that are made to do harm, and how they are compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.tests.fuzz.onnx_files import LIMITS

Array = np.ndarray[Any, np.dtype[Any]]
I64 = 2**63
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def make_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return a model of one input ``x``, with whatever its nodes say."""
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        tensors,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def single(
    op: str, shape: Sequence[int | str], attributes: Mapping[str, Any], *constants: Any
) -> onnx.ModelProto:
    """Return a model of one node: ``x`` first, then constants; ``None`` leaves an input out."""
    given = {f"c{k}": c for k, c in enumerate(constants) if c is not None}
    names = ["x", *(f"c{k}" if c is not None else "" for k, c in enumerate(constants))]
    return make_model([helper.make_node(op, names, ["y"], **attributes)], shape, given)


def folded(op: str, *constants: Any, **attributes: Any) -> onnx.ModelProto:
    """Return ``x + op(constants)``."""
    names = [f"c{k}" for k in range(len(constants))]
    nodes = [helper.make_node(op, names, ["c"], **attributes)]
    nodes.append(helper.make_node("Add", ["x", "c"], ["y"]))
    return make_model(nodes, [1], dict(zip(names, constants, strict=True)))


def compile_model(model: onnx.ModelProto, **limits: int) -> Any:
    """Compile with limits that keep a test short, or with those that are given."""
    options = whet.Options(threads=1, limits=whet.Limits(**limits) if limits else LIMITS)
    return whet.compile(model.SerializeToString(), options=options)


def f32(*values: float) -> Array:
    """Return a row of floats."""
    return np.array(values, np.float32)

"""Compiles one node and compares what it computes with the reference in double precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.dtypes import numpy_dtype
from whet.tests.ops_harness import OPSET, parameters_of

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = Sequence[Any]
"""Declared shapes: sequences of integers and names, ``None`` for an array's own."""

BOUNDS = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def node_model(
    op: str, arrays: Sequence[Array | None], shapes: Shapes = (), **settings: Any
) -> onnx.ModelProto:
    """Return a model of one node.

    Args:
        op: operator.
        arrays: one array an input; ``None`` leaves it out. Parameters become constants.
        shapes: declared shapes of the inputs; by default those of the arrays.
        settings: ``outputs`` (their number), ``fixed`` (which inputs are constants, by default the
            parameters), ``domain``, and the node's attributes.
    """
    outputs = [f"y{k}" for k in range(settings.pop("outputs", 1))]
    chosen = settings.pop("fixed", None)
    names = ["" if a is None else f"x{k}" for k, a in enumerate(arrays)]
    node = helper.make_node(op, names, outputs, name="node", **settings)
    fixed = parameters_of(node) if chosen is None else chosen
    infos, constants = [], []
    for k, array in enumerate(arrays):
        if array is None:
            continue
        declared = shapes[k] if k < len(shapes) and shapes[k] is not None else array.shape
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if k in fixed:
            constants.append(numpy_helper.from_array(array, names[k]))
        else:
            infos.append(helper.make_tensor_value_info(names[k], kind, declared))
    outs = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph([node], "one", infos, outs, constants)
    imports = [helper.make_opsetid("", OPSET)]
    if node.domain:
        imports.append(helper.make_opsetid(node.domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def reference_outputs(op: str, arrays: Sequence[Array | None], **settings: Any) -> list[Array]:
    """Return what the reference computes in double precision."""
    wide = [_wide(a) for a in arrays]
    feeds = {f"x{k}": a for k, a in enumerate(wide) if a is not None}
    model = node_model(op, wide, **settings)
    given = {i.name for i in model.graph.input}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = ReferenceEvaluator(model).run(None, {n: a for n, a in feeds.items() if n in given})
    return [np.asarray(a) for a in found]


def _wide(array: Array | None) -> Array | None:
    is_float = array is not None and array.dtype.kind not in "biuc"
    return array.astype(np.float64) if is_float and array is not None else array


def check_node(
    op: str,
    *arrays: Array | None,
    shapes: Shapes = (),
    dtypes: Sequence[str] = ("float32",),
    expected: Callable[..., Sequence[Array]] | None = None,
    **settings: Any,
) -> None:
    """Compile one node for every element type and compare its outputs.

    Args:
        op: operator.
        arrays: inputs; floats are rounded to each type first.
        shapes: declared shapes; run-time dimensions are names.
        dtypes: types of the float inputs.
        expected: computes the outputs in double precision; the reference does if ``None``.
        settings: as ``node_model`` takes them.
    """
    for dtype in dtypes:
        given = [_rounded(a, dtype) for a in arrays]
        if expected is None:
            wanted: Sequence[Array] = reference_outputs(op, given, **settings)
        else:
            wanted = expected(*(_wide(a) for a in given))
        for declared in [(), shapes] if shapes else [()]:
            model = node_model(op, given, declared, **settings)
            compiled = whet.compile(model, options=whet.Options(threads=1))
            feeds = {f"x{k}": a for k, a in enumerate(given) if a is not None}
            names = {i.name for i in model.graph.input}
            found: Mapping[str, Array] = compiled({n: a for n, a in feeds.items() if n in names})
            for k, value in enumerate(wanted):
                _compare(found[f"y{k}"], np.asarray(value), dtype)


def _rounded(array: Array | None, dtype: str) -> Array | None:
    is_float = array is not None and array.dtype.kind == "f"
    return array.astype(numpy_dtype(dtype)) if is_float and array is not None else array


def _compare(found: Array, wanted: Array, dtype: str) -> None:
    assert found.shape == wanted.shape, f"{found.shape} is not {wanted.shape}"
    if found.dtype.kind in "biu":
        np.testing.assert_array_equal(found, wanted)
        return
    bound = BOUNDS[dtype]
    wide = found.astype(np.float64)
    np.testing.assert_allclose(wide, wanted.astype(np.float64), rtol=bound, atol=bound)

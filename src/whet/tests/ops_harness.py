"""Lowers one node and evaluates its outputs with the interpreter; ONNX's own cases as examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from whet.index import Dim, Poly, as_poly, var
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Tensor
from whet.ops.late import DimNames, Late, ValueRead
from whet.ops.node import Node, constant
from whet.ops.table import op_table

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int | str, ...]
OPSET = onnx.defs.onnx_opset_version()

# Inputs that have to be known when compiling.
PARAMETERS: dict[str, set[int]] = {
    "AffineGrid": {1}, "BlackmanWindow": {0}, "CenterCropPad": {1}, "Col2Im": {1, 2},
    "ConstantOfShape": {0}, "ConvTranspose": {1}, "CumProd": {1}, "CumSum": {1}, "DFT": {1, 2},
    "Dropout": {1, 2}, "Expand": {1}, "HammingWindow": {0}, "HannWindow": {0},
    "MaxUnpool": {2}, "MelWeightMatrix": {0, 1, 2, 3, 4}, "OneHot": {1}, "Pad": {1, 3},
    "Range": {0, 1, 2}, "Reshape": {1}, "Resize": {1, 2, 3}, "STFT": {1, 3},
    "Slice": {1, 2, 3, 4}, "Split": {1}, "Squeeze": {1}, "Tile": {1}, "TopK": {1}, "Unsqueeze": {1},
    "Upsample": {1},
}  # fmt: skip


def parameters_of(node: onnx.NodeProto) -> set[int]:
    """Return which inputs of a node have to be known when compiling."""
    if node.op_type.startswith("Reduce"):
        return {1}
    return PARAMETERS.get(node.op_type, set())


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        found[attribute.name] = value
    return found


def as_shape(shape: Shape) -> tuple[Poly, ...]:
    return tuple(as_poly(e) if isinstance(e, int) else var(Dim(e)) for e in shape)


def lower_node(
    node: onnx.NodeProto, tensors: Mapping[str, Tensor], late: Late | None = None
) -> list[Tensor]:
    """Lower one node whose inputs are given by name; ``late`` takes sizes that data tell."""
    view = Node(
        name=node.name or "node",
        op=node.op_type,
        inputs=tuple(tensors[name] if name else None for name in node.input),
        attributes=attributes_of(node),
        outputs=tuple(node.output),
        late=late,
    )
    domain = "" if node.domain == "ai.onnx" else node.domain
    return op_table()[(domain, node.op_type)].lower(view)


def input_tensors(
    node: onnx.NodeProto, arrays: Mapping[str, Array], shapes: Mapping[str, Shape] | None = None
) -> dict[str, Tensor]:
    """Return a node's inputs as tensors: parameters as constants, the others as model inputs."""
    fixed = {node.input[k] for k in parameters_of(node) if k < len(node.input)}
    found = {}
    for name, array in arrays.items():
        shape = (shapes or {}).get(name, array.shape)
        plain = Tensor(name, as_shape(shape), array.dtype.name)
        found[name] = constant(name, array) if name in fixed else plain
    return found


def run_node(
    node: onnx.NodeProto, arrays: Mapping[str, Array], shapes: Mapping[str, Shape] | None = None
) -> list[Array]:
    """Return the outputs of one node as its equations define them."""
    late = Late(DimNames())
    outputs = lower_node(node, input_tensors(node, arrays, shapes), late)
    dims = {
        extent: length
        for name, shape in (shapes or {}).items()
        for extent, length in zip(shape, arrays[name].shape, strict=True)
        if isinstance(extent, str)
    }
    for event in late.events:
        if isinstance(event, ValueRead):
            found = evaluate_tensor(event.tensor, arrays, dims).reshape(-1)
            dims |= {name: int(n) for name, n in zip(event.dims, found, strict=True)}
    return [evaluate_tensor(t, arrays, dims) for t in outputs]


def reference(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of one node as ONNX's reference implementation computes them."""
    infos = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "one", infos, outputs)
    imports = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(arrays))]


def check(found: list[Array], expected: list[Array], **tolerance: float) -> None:
    """Compare all outputs that were lowered with what they should be."""
    assert found
    for a, b in zip(found, expected, strict=False):
        assert a.dtype == b.dtype, f"{a.dtype} is not {b.dtype}"
        assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
        compare(a, b, **tolerance)


def compare(a: Array, b: Array, **tolerance: float) -> None:
    if a.dtype.kind in "biu":
        np.testing.assert_array_equal(a, b)
        return
    half = a.dtype.itemsize == 2
    rtol = max(tolerance.get("rtol", 1e-5), 1e-2 if half else 0.0)
    atol = max(tolerance.get("atol", 1e-6), 1e-2 if half else 0.0)
    np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol)


def verify(
    op: str,
    *arrays: Array | None,
    shapes: tuple[Shape, ...] = (),
    outputs: int = 1,
    atol: float = 1e-6,
    **attributes: Any,
) -> None:
    """Check one operator against the reference; with ``shapes``, also with run-time dimensions."""
    names = ["" if a is None else f"x{k}" for k, a in enumerate(arrays)]
    given = {f"x{k}": a for k, a in enumerate(arrays) if a is not None}
    outs = [f"y{k}" for k in range(outputs)]
    node = onnx.helper.make_node(op, names, outs, **attributes)
    expected = reference(node, given)
    check(run_node(node, given), expected, atol=atol)
    if shapes:
        symbolic = {f"x{k}": s for k, s in enumerate(shapes)}
        check(run_node(node, given, symbolic), expected, atol=atol)

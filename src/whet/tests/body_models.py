"""Models with products in the bodies of If, Loop and Scan, and what they are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import whet
from whet.frontend.load import load_model
from whet.passes.pipeline import run_passes

Array = np.ndarray[Any, Any]
NODE, INFO = helper.make_node, helper.make_tensor_value_info
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 64)).astype(np.float32)
BOTH = [X[:8], X[8:] + 3, X[:5] - 3]
"""Samples whose sums are positive and negative: both branches run."""


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], x: list[Any], y: list[Any],
) -> onnx.ModelProto:  # fmt: skip
    given = {n: np.asarray(a, np.float32 if np.asarray(a).dtype.kind == "f" else None)
             for n, a in constants.items()}  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [INFO("x", FLOAT, x)], [INFO("y", FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def square(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((64, 64)) / 8


def body_of(
    nodes: list[onnx.NodeProto], given: list[tuple[str, int, Any]], got: list[tuple[str, int, Any]]
) -> onnx.GraphProto:
    return helper.make_graph(nodes, "b", [INFO(*v) for v in given], [INFO(*v) for v in got])


def branches(*, outside: bool = True) -> onnx.ModelProto:
    """Return a choice between a loop of a product and another product; names are used twice."""
    body = body_of(
        [NODE("MatMul", ["xi", "v"], ["t"], name="step"), NODE("Tanh", ["t"], ["xo"]),
         NODE("Identity", ["c"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, None)],
        [("co", BOOL, []), ("xo", FLOAT, None)],
    )  # fmt: skip
    loop = NODE("Loop", ["k", "", "a"], ["m"], body=body, name="loop")
    then = body_of([loop], [], [("m", FLOAT, None)])
    product = NODE("MatMul", ["a", "v"], ["t"], name="other")
    other = body_of([product, NODE("Relu", ["t"], ["n"])], [], [("n", FLOAT, None)])
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], name="first") if outside else NODE("Abs", ["x"], ["a"]),
        NODE("ReduceSum", ["x"], ["s"], keepdims=0),
        NODE("Greater", ["s", "zero"], ["condition"]),
        NODE("If", ["condition"], ["y"], then_branch=then, else_branch=other, name="branch"),
    ]
    constants = {"w": square(), "v": square(1), "k": 3, "zero": 0.0}
    return model_of(nodes, constants, ["n", 64], ["n", 64])


def scanned() -> onnx.ModelProto:
    """Return a Scan from the end, of slices along axis 1, with a Gemm and a product of states."""
    body = body_of(
        [NODE("Gemm", ["part", "w", "b"], ["g"], name="gemm", transB=1),
         NODE("MatMul", ["state", "v"], ["h"], name="states"),
         NODE("Add", ["g", "h"], ["z"]), NODE("Tanh", ["z"], ["next"]),
         NODE("Identity", ["next"], ["out"])],
        [("state", FLOAT, ["n", 64]), ("part", FLOAT, ["n", 64])],
        [("next", FLOAT, ["n", 64]), ("out", FLOAT, ["n", 64])],
    )  # fmt: skip
    nodes = [
        NODE("ReduceMax", ["x", "axis"], ["start"], keepdims=0),
        NODE("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1, name="scan",
             scan_input_axes=[1], scan_output_axes=[1], scan_input_directions=[1]),
    ]  # fmt: skip
    constants = {"w": square(), "v": square(1), "b": np.arange(64) / 64, "axis": [1]}
    return model_of(nodes, constants, ["n", 6, 64], ["n", 6, 64])


def convolved() -> onnx.ModelProto:
    """Return a loop of a convolution whose input grows, with weights inside of the body."""
    w = numpy_helper.from_array(square()[:4, :36].reshape(4, 4, 3, 3).astype(np.float32), "w")
    b = numpy_helper.from_array(np.arange(4, dtype=np.float32))
    body = body_of(
        [NODE("Constant", [], ["b"], value=b),
         NODE("Conv", ["xi", "w", "b"], ["t"], name="conv", pads=[2, 2, 2, 2]),
         NODE("Relu", ["t"], ["xo"]), NODE("Identity", ["c"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, ["n", 4, "h", "w"])],
        [("co", BOOL, []), ("xo", FLOAT, ["n", 4, "i", "j"])],
    )  # fmt: skip
    body.initializer.append(w)
    nodes = [NODE("Loop", ["k", "", "x"], ["y"], body=body, name="loop")]
    return model_of(nodes, {"k": 3}, ["n", 4, 5, 6], ["n", 4, "a", "b"])


def nested() -> onnx.ModelProto:
    """Return a loop in a loop; the inner one reads what the outer one carries."""
    inner = body_of(
        [NODE("Add", ["u", "xi"], ["s"]), NODE("MatMul", ["s", "v"], ["uo"], name="inner"),
         NODE("Identity", ["c2"], ["co2"])],
        [("j", INT64, []), ("c2", BOOL, []), ("u", FLOAT, None)],
        [("co2", BOOL, []), ("uo", FLOAT, None)],
    )  # fmt: skip
    outer = body_of(
        [NODE("MatMul", ["xi", "w"], ["a"], name="outer"),
         NODE("Loop", ["k", "", "a"], ["r"], body=inner, name="within"),
         NODE("Tanh", ["r"], ["xo"]), NODE("Less", ["i", "two"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, None)],
        [("co", BOOL, []), ("xo", FLOAT, None)],
    )  # fmt: skip
    nodes = [NODE("Loop", ["", "yes", "x"], ["y"], body=outer, name="loop")]
    constants = {"w": square(), "v": square(1), "k": 2, "two": 2, "yes": np.array(True)}
    return model_of(nodes, constants, ["n", 64], ["n", 64])


IMAGES = RNG.standard_normal((8, 4, 5, 6)).astype(np.float32)
SERIES = RNG.standard_normal((8, 6, 64)).astype(np.float32)
MODELS: dict[str, tuple[onnx.ModelProto, Any, Array, set[str]]] = {
    "branches": (branches(), BOTH, X, {"first", "step", "other"}),
    "scan": (scanned(), SERIES, SERIES, {"gemm", "states"}),
    "growing": (convolved(), IMAGES, IMAGES, {"conv"}),
    "nested": (nested(), X, X, {"outer", "inner"}),
}


def plain_ort(model: onnx.ModelProto, x: Array) -> Array:
    """Run a model node by node: ONNX Runtime's rewrites round rows of floats to 8 bits."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found: Array = session.run(None, {"x": x})[0]
    return found


def operators(model: onnx.ModelProto) -> set[str]:
    """Return the operators of a model, those in bodies too, as it is compiled."""
    graph = load_model(model)
    run_passes(graph, opt_level=3)
    return {node.op_type for node in graph.graph.all_nodes()}


def agree(made: onnx.ModelProto, model: onnx.ModelProto, x: Array, error: float) -> None:
    """Check a quantised model against ONNX Runtime, and its distance from the float one."""
    onnx.checker.check_model(made, full_check=True)
    program = whet.compile(made)
    for batch in (x, x[:3]):
        found, right = program({"x": batch})["y"], plain_ort(made, batch)
        before = plain_ort(model, batch)
        assert found.shape == right.shape
        steps = np.abs(found - right) > 1e-4 * np.abs(right).max()
        assert steps.mean() < 0.02  # where a sum lies between two steps
        assert np.abs(found - right).max() <= 0.02 * np.abs(right).max()
        assert np.linalg.norm(found - before) <= error * np.linalg.norm(before)
    default = onnxruntime.InferenceSession(made.SerializeToString())  # its rewrites take it, too
    assert default.run(None, {"x": x})[0].shape == program({"x": x})["y"].shape

"""Small networks to quantise, and digits to judge them by."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]


def build(nodes: list[onnx.NodeProto], weights: dict[str, Array], shape: list[int | str],
          outputs: list[int | str]) -> onnx.ModelProto:  # fmt: skip
    """Return a model of one input x and one output y."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, outputs)
    plain = {name: np.asarray(w, np.float32) for name, w in weights.items()}
    constants = [numpy_helper.from_array(w, name) for name, w in plain.items()]
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual_net(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a network with a residual sum, a depthwise convolution, pools and a head."""

    def w(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    weights = {
        "w1": w(8, 3, 3, 3), "b1": w(8, 1)[:, 0], "w2": w(8, 8, 3, 3), "b2": w(8, 1)[:, 0],
        "w3": w(8, 1, 3, 3), "b3": w(8, 1)[:, 0], "w4": w(8, 5), "b4": w(5, 1)[:, 0],
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], name="conv2", pads=[1] * 4),
        node("Add", ["c2", "p1"], ["a"], name="sum"),
        node("Relu", ["a"], ["ra"]),
        node("Conv", ["ra", "w3", "b3"], ["c3"], name="conv3", pads=[1] * 4, group=8),
        node("GlobalAveragePool", ["c3"], ["g"], name="pool"),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["y"], name="head"),
    ]
    return build(nodes, weights, ["n", 3, 9, 7], ["n", 5])


def function_net(rng: np.random.Generator) -> onnx.ModelProto:
    """Return convolutions with Swish, HardSwish, Relu and, at the end, a Tanh between them."""
    weights = {
        f"w{k}": rng.standard_normal((8, 3 if k == 1 else 8, 3, 3)) / 6 for k in (1, 2, 3, 4)
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        node("Sigmoid", ["c1"], ["s1"]),
        node("Mul", ["c1", "s1"], ["f1"]),
        node("Conv", ["f1", "w2"], ["c2"], name="conv2", pads=[1] * 4),
        node("HardSwish", ["c2"], ["f2"]),
        node("Conv", ["f2", "w3"], ["c3"], name="conv3", pads=[1] * 4),
        node("Relu", ["c3"], ["f3"]),
        node("Conv", ["f3", "w4"], ["c4"], name="conv4", pads=[1] * 4),
        node("Tanh", ["c4"], ["y"]),
    ]
    return build(nodes, weights, ["n", 3, 9, 7], ["n", 8, 9, 7])


def uneven_chain(rng: np.random.Generator) -> onnx.ModelProto:
    """Return two convolutions in a row, of which one channel is 100 times as large."""
    w1, w2 = rng.standard_normal((8, 3, 3, 3)), rng.standard_normal((4, 8, 1, 1))
    w1[2] *= 100
    w2[:, 2] /= 100
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w2"], ["y"]),
    ]
    return build(nodes, {"w1": w1, "w2": w2}, ["n", 3, 9, 7], ["n", 4, 7, 5])


def norm_net(rng: np.random.Generator, width: int = 16) -> onnx.ModelProto:
    """Return LayerNorm, two products and a head, with one channel that is much larger."""
    gamma = np.ones(width)
    gamma[3] = 60.0
    weights = {
        "g": gamma, "b": np.zeros(width),
        "w1": rng.standard_normal((width, 24)) / 4, "w2": rng.standard_normal((24, 6)) / 5,
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["h"], name="norm", axis=-1),
        node("MatMul", ["h", "w1"], ["m"], name="up"),
        node("Relu", ["m"], ["r"]),
        node("MatMul", ["r", "w2"], ["y"], name="down"),
    ]
    return build(nodes, weights, ["n", 4, width], ["n", 4, 6])


def digits() -> tuple[Array, Array]:
    """Return scikit-learn's digits, (1797, 1, 8, 8) from 0 to 1, in a fixed random order."""
    import pytest

    sets = pytest.importorskip("sklearn.datasets")
    images, labels = sets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return np.float32(images[order] / 16).reshape(-1, 1, 8, 8), labels[order]


def trained_net(images: Array, labels: Array, *, hostile: bool = False) -> onnx.ModelProto:
    """Return a network of random filters whose head is fitted by least squares.

    A hostile one has three channels that are 100 times as large in front of the second
    convolution, which divides by 100 again: the function is the same.
    """
    rng = np.random.default_rng(1)
    w1, w2 = rng.standard_normal((16, 1, 3, 3)) / 3, rng.standard_normal((96, 16, 3, 3)) / 12
    b1, b2 = rng.standard_normal(16) / 8, rng.standard_normal(96) / 8
    if hostile:
        w1[:3], b1[:3], w2[:, :3] = w1[:3] * 100, b1[:3] * 100, w2[:, :3] / 100
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", strides=[2, 2]),
        node("Relu", ["c2"], ["r2"]),
        node("Flatten", ["r2"], ["y"]),
    ]
    weights: dict[str, Array] = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    features = _run(build(nodes, weights, ["n", 1, 8, 8], ["n", 864]), images)
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    wanted = np.eye(10)[labels]
    ridge = inputs.T @ inputs + 1e-1 * np.eye(inputs.shape[1])
    head = np.linalg.solve(ridge, inputs.T @ wanted)
    nodes[-1].output[0] = "f"
    nodes.append(node("Gemm", ["f", "w3", "b3"], ["y"], name="head"))
    weights |= {"w3": head[:-1], "b3": head[-1]}
    return build(nodes, weights, ["n", 1, 8, 8], ["n", 10])


def _run(model: onnx.ModelProto, images: Array) -> Array:
    import whet

    return np.asarray(whet.compile(model)({"x": images})["y"])

"""Quantising models that are odd: half quantised, without biases, with constants of any rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.errors import UnsupportedError
from whet.quantize.convert import convert_weights
from whet.quantize.static import Request
from whet.quantize.weights import WeightConfig
from whet.tests.quantized_models import build, residual_net

Array = np.ndarray[Any, Any]
NODE = helper.make_node


def outputs(model: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(whet.compile(model)({"x": x})["y"])


def error(found: Array, right: Array) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


@pytest.mark.parametrize("rounding", ["adaptive", "gptq"])
def test_constants_of_one_and_three_dimensions(rounding: str) -> None:
    rng = np.random.default_rng(0)
    weights = {"m": rng.standard_normal((8, 8)), "c": rng.standard_normal((2, 8, 6)),
               "v": rng.standard_normal(6)}  # fmt: skip
    nodes = [
        NODE("MatMul", ["x", "m"], ["a"]), NODE("Relu", ["a"], ["r"]),
        NODE("MatMul", ["r", "c"], ["b"]), NODE("MatMul", ["b", "v"], ["y"]),
    ]  # fmt: skip
    model = build(nodes, weights, ["n", 2, 5, 8], ["n", 2, 5])
    x = rng.standard_normal((32, 2, 5, 8)).astype(np.float32)
    config = {"rounding": rounding, "smooth": 0.5, "bias_correction": True}
    made = whet.quantize(model, x, config=config)
    assert len(made.report.quantized) == 3
    assert error(outputs(made.model, x), outputs(model, x)) < 0.03


def half_quantised(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a network whose input is rounded already, and one of whose weights is int8."""
    weights = {
        "s": np.array(0.03), "w1": rng.standard_normal((6, 4, 3, 3)),
        "sw": np.array(0.01), "w3": rng.standard_normal((9, 3)),
    }  # fmt: skip
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        NODE("DequantizeLinear", ["q", "s", "z"], ["d"]),
        NODE("Conv", ["d", "w1"], ["a"], name="first"),
        NODE("MaxPool", ["d"], ["p"], kernel_shape=[3, 3]),
        NODE("Concat", ["a", "p"], ["j"], axis=1),
        NODE("DequantizeLinear", ["w2", "sw"], ["w2d"]),
        NODE("Conv", ["j", "w2d"], ["b"], name="second"),
        NODE("GlobalAveragePool", ["b"], ["g"]),
        NODE("Flatten", ["g"], ["f"]),
        NODE("Gemm", ["f", "w3"], ["y"], name="head"),
    ]
    model = build(nodes, weights, ["n", 4, 9, 7], ["n", 3])
    stored = {"z": np.array(120, np.uint8), "w2": rng.integers(-127, 127, (9, 10, 1, 1), np.int8)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    return model


def test_what_is_quantised_already_keeps_its_grid() -> None:
    rng = np.random.default_rng(1)
    model = half_quantised(rng)
    x = rng.standard_normal((16, 4, 9, 7)).astype(np.float32)
    made = whet.quantize(model, x)
    onnx.checker.check_model(made.model, full_check=True)
    assert {"first", "head"} <= set(made.report.quantized)
    assert [(s.name, s.why) for s in made.report.skipped] == [
        ("second", "its weight is quantised already")
    ]
    graph = made.model.graph
    writers = {name: node for node in graph.node for name in node.output}
    first = next(n for n in graph.node if n.name == "first")
    before = writers[first.input[0]]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert constants[before.input[1]] == np.float32(0.03)
    assert constants[before.input[2]] == 120
    assert error(outputs(made.model, x), outputs(model, x)) < 0.03
    whole = whet.quantize(residual_net(np.random.default_rng(2)), _images()).model
    with pytest.raises(UnsupportedError, match="it is quantised already"):
        whet.quantize(whole, _images())


def _images() -> Array:
    return np.random.default_rng(3).standard_normal((8, 3, 9, 7)).astype(np.float32)


PRODUCTS = {
    "matmul": [
        NODE("MatMul", ["x", "w"], ["a"]), NODE("Relu", ["a"], ["r"]),
        NODE("MatMul", ["r", "v"], ["b"]), NODE("Add", ["c", "b"], ["y"]),
    ],
    "gemm": [
        NODE("Reshape", ["x", "rows"], ["f"]), NODE("Gemm", ["f", "w"], ["a"]),
        NODE("Relu", ["a"], ["r"]), NODE("Gemm", ["r", "u"], ["y"], transB=1),
    ],
    "conv": [
        NODE("Unsqueeze", ["x", "two"], ["s"]), NODE("Transpose", ["s"], ["t"], perm=[0, 3, 1, 2]),
        NODE("Conv", ["t", "k"], ["a"]), NODE("Relu", ["a"], ["r"]),
        NODE("Conv", ["r", "l"], ["z"]), NODE("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_bias_correction_reaches_products_without_a_bias(kind: str, asymmetric: bool) -> None:
    rng = np.random.default_rng(4)
    w, v = rng.standard_normal((16, 24)), rng.standard_normal((24, 6))
    weights = {"w": w, "v": v, "c": rng.standard_normal(6), "u": v.T,
               "k": w.T[:, :, None, None], "l": v.T[:, :, None, None]}  # fmt: skip
    shape: dict[str, list[int | str]] = {"gemm": ["m", 6], "conv": ["n", 4, 1, 6]}
    model = build(PRODUCTS[kind], weights, ["n", 4, 16], shape.get(kind, ["n", 4, 6]))
    for name, numbers in {"rows": [-1, 16], "two": [2]}.items():
        array = np.array(numbers, np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    x, fresh = np.abs(rng.standard_normal((2, 64, 4, 16))).astype(np.float32)
    config: dict[str, Any] = {"weights": "int4", "activations": "uint16"}
    if asymmetric:
        config |= {"weights": "uint4", "weights_symmetric": False}
    right, means = outputs(model, fresh).reshape(-1, 6), []
    for corrected in (False, True):
        made = whet.quantize(model, x, config={**config, "bias_correction": corrected}).model
        onnx.checker.check_model(made, full_check=True)
        difference = outputs(made, fresh).reshape(-1, 6) - right
        means.append(float(np.linalg.norm(difference.mean(axis=0))))
    assert means[1] < 0.3 * means[0]


def test_weights_that_are_not_finite_stay() -> None:
    weights = {"w": np.full((5, 3), np.nan), "v": np.ones((3, 2))}
    nodes = [NODE("MatMul", ["x", "w"], ["a"], name="bad"), NODE("MatMul", ["a", "v"], ["y"])]
    model = build(nodes, weights, ["n", 5], ["n", 2])
    made = convert_weights(Request(model, ()), WeightConfig(block=16))
    assert made.report.floats == {"bad": "its weight has NaN or infinity"}
    assert made.report.converted == 1
    alone = build([NODE("MatMul", ["x", "w"], ["y"])], weights, ["n", 5], ["n", 3])
    with pytest.raises(UnsupportedError, match="its weight has NaN or infinity"):
        whet.quantize(alone, np.ones((2, 5), np.float32))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_empty_weights_stay(shape: tuple[int, int]) -> None:
    depth, width = shape
    nodes = [NODE("MatMul", ["x", "w"], ["y"], name="empty")]
    model = build(nodes, {"w": np.ones(shape)}, ["n", depth], ["n", width])
    with pytest.raises(UnsupportedError, match="empty: its weight is empty"):
        whet.quantize(model, np.ones((3, depth), np.float32), config={"rounding": "gptq"})


@pytest.mark.parametrize("kind", [object, np.str_])
def test_texts_beside_what_is_quantised(kind: Any, tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(7).standard_normal((4, 3))}
    nodes = [NODE("MatMul", ["x", "w"], ["y"], name="product"), NODE("Identity", ["s"], ["t"])]
    model = build(nodes, weights, ["n", 4], ["n", 3])
    for name, place in (("s", model.graph.input), ("t", model.graph.output)):
        place.append(helper.make_tensor_value_info(name, onnx.TensorProto.STRING, ["n"]))
    x = np.random.default_rng(8).standard_normal((3, 4)).astype(np.float32)
    feeds = {"x": x, "s": np.array(["a", "b", "c"], kind)}
    for _ in range(2):  # the second reads the state, whose hash is of the texts
        made = whet.quantize(model, feeds, max_drop="5%", metric=whole, state=tmp_path)
        assert made.report.quantized == {"product": "MatMul"}
    assert whet.quantize(model, feeds, max_drop="5%", metric="cosine").report.target is not None


def whole(outputs: Any, references: Any, labels: Any) -> float:
    """Judge the numbers, and see that the texts came through."""
    assert outputs["t"].tolist() == ["a", "b", "c"]
    return 1 - error(outputs["y"], references["y"])


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(("outputs_a_group", "group"), [(4, 1), (4, 2), (4, 8), (1, 8), (1, 4)])
def test_channels_of_transposed_convolutions(
    outputs_a_group: int, group: int, asymmetric: bool
) -> None:
    """Channels of one size in all groups, or groups of any size where each has one input."""
    rng = np.random.default_rng(9)
    w = rng.standard_normal((8, outputs_a_group, 3, 3))
    b = rng.standard_normal(outputs_a_group * group)
    if group == 8:
        w *= np.geomspace(0.1, 100, 8).reshape(8, 1, 1, 1)
    else:
        w *= np.geomspace(0.1, 100, outputs_a_group).reshape(1, outputs_a_group, 1, 1)
    nodes = [NODE("ConvTranspose", ["x", "w", "b"], ["y"], name="up", group=group, strides=[2, 2])]
    model = build(nodes, {"w": w, "b": b}, ["n", 8, 6, 6], ["n", len(b), 13, 13])
    x = rng.standard_normal((16, 8, 6, 6)).astype(np.float32)
    made = whet.quantize(model, x, config={"weights_symmetric": not asymmetric})
    onnx.checker.check_model(made.model, full_check=True)
    found, right = outputs(made.model, x), outputs(model, x)
    for channel in range(len(b)):
        assert error(found[:, channel], right[:, channel]) < 0.03, channel


@pytest.mark.parametrize("group", [2, 8])
def test_large_biases_of_transposed_convolutions(group: int) -> None:
    rng = np.random.default_rng(10)
    w, b = rng.standard_normal((8, 2, 2, 2)), rng.standard_normal(2 * group)
    w[-1] *= 1e-9
    w[:, 1] *= 1e-9
    b[-1] = -1e3
    nodes = [NODE("ConvTranspose", ["x", "w", "b"], ["y"], group=group)]
    model = build(nodes, {"w": w, "b": b}, ["n", 8, 6, 6], ["n", len(b), 7, 7])
    x = rng.standard_normal((4, 8, 6, 6)).astype(np.float32)
    found, right = (outputs(m, x) for m in (whet.quantize(model, x).model, model))
    for channel in range(len(b)):
        assert error(found[:, channel], right[:, channel]) < 0.03, channel

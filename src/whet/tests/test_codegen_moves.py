"""Copies and windows of bytes: whole vectors, interleaved channels, work done on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet import driver
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import resolve_target
from whet.kernel.spec import Contraction, Nest

Array = np.ndarray[Any, np.dtype[Any]]
CASCADE = "x86_64-linux-gnu:cascadelake"
KINDS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def model_of(
    nodes: list[onnx.NodeProto], x: Array, output: tuple[str, tuple[int, ...]], **constants: Array
) -> onnx.ModelProto:
    """Return a model of one input and one output."""
    dtype, shape = output
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", KINDS[x.dtype.name], x.shape)],
        [helper.make_tensor_value_info("y", KINDS[dtype], shape)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def nests_of(model: onnx.ModelProto, target: str = "host") -> list[Nest]:
    """Return the loop nests of a model."""
    planned = driver.plan(model, options=whet.Options(threads=2, target=target))
    return [k for k in planned.kernels.values() if isinstance(k, Nest)]


def drawn(dtype: str, shape: tuple[int, ...]) -> Array:
    """Return random values of any type."""
    rng = np.random.default_rng()
    if dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize(
    ("shape", "interleaved"),
    [
        ((1, 3, 20, 37), True),
        ((2, 2, 5, 16), True),
        ((3, 4, 7, 101), True),
        ((1, 5, 9, 40), False),
        ((2, 3, 1, 4), False),
    ],
)
def test_channels_are_interleaved(dtype: str, shape: tuple[int, ...], interleaved: bool) -> None:
    x = drawn(dtype, shape)
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])
    model = model_of([node], x, (dtype, tuple(shape[k] for k in (0, 2, 3, 1))))
    assert any(n.interleaved for n in nests_of(model, CASCADE)) == interleaved
    for threads in (1, 2):
        found = whet.compile(model, options=whet.Options(threads=threads))({"x": x})["y"]
        np.testing.assert_array_equal(found, x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("size", [(24, 40), (17, 33), (16, 15)])
def test_the_input_is_quantised_by_the_copy(size: tuple[int, int]) -> None:
    rng = np.random.default_rng()
    x = rng.uniform(-3, 3, (1, 3, *size)).astype(np.float32)
    weights = rng.integers(-128, 128, (20, 3, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["sum"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    scale, zero = np.array(0.02, np.float32), np.array(117, np.uint8)
    constants: dict[str, Array] = {"s": scale, "z": zero, "w": weights}
    model = model_of(nodes, x, ("float32", (1, 20, *size)), **constants)
    in_front = [n for n in nests_of(model) if not n.steps and n.params[0].dtype == "uint8"]
    assert len(in_front) == 1, "the quantised image is stored once, with its padding"
    steps = np.clip(np.rint(x / scale) + 117, 0, 255).astype(np.int64) - 117
    wide = np.pad(steps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))
    exact = np.einsum("nchwij,mcij->nmhw", windows, weights.astype(np.int64))
    found = whet.compile(model, options=whet.Options(threads=2))({"x": x})["y"]
    np.testing.assert_array_equal(found, exact)


def test_what_others_read_too_is_stored() -> None:
    x = drawn("float32", (1, 3, 16, 16))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["sum"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("ReduceSum", ["f"], ["total"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "total"], ["y"]),
    ]
    constants: dict[str, Array] = {
        "s": np.array(0.02, np.float32), "z": np.array(117, np.uint8),
        "w": drawn("int8", (8, 3, 3, 3)),
    }  # fmt: skip
    model = model_of(nodes, x, ("float32", (1, 8, 14, 14)), **constants)
    assert len([n for n in nests_of(model) if n.params[0].dtype == "uint8"]) == 2


@pytest.mark.parametrize(("channels", "whole"), [(64, True), (128, True), (96, False), (3, False)])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_windows_over_bytes(dtype: str, channels: int, whole: bool) -> None:
    x = drawn(dtype, (2, 13, 11, channels))
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("MaxPool", ["first"], ["most"], kernel_shape=[3, 3], strides=[2, 2],
                         pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["most"], ["y"], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    model = model_of(nodes, x, (dtype, (2, 7, 6, channels)))
    found = whet.compile(model, options=whet.Options(threads=2))({"x": x})["y"]
    low = np.iinfo(dtype).min
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=low)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(found, windows.max((4, 5)))
    target = resolve_target(CASCADE)
    pools = [n for n in nests_of(model, CASCADE) if n.steps]
    assembly = "".join(assembly_of(kernel_text("k", n, (), target), target) for n in pools)
    name = "vpmaxub" if dtype == "uint8" else "vpmaxsb"
    lines = [line for line in assembly.splitlines() if name in line]
    assert lines and any("%zmm" in line for line in lines) == whole


@pytest.mark.parametrize("channels", [64, 192, 48])
def test_padding_of_bytes(channels: int) -> None:
    x = drawn("uint8", (2, channels, 9, 12))
    weights = drawn("int8", (16, channels, 3, 3))
    nodes = [helper.make_node("ConvInteger", ["t", "w", "z"], ["sum"], pads=[1, 0, 2, 1]),
             helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT)]  # fmt: skip
    nodes.insert(0, helper.make_node("MaxPool", ["x"], ["t"], kernel_shape=[1, 1]))
    zero = np.array(7, np.uint8)
    model = model_of(nodes, x, ("float32", (2, 16, 10, 11)), w=weights, z=zero)
    kernels = driver.plan(model, options=whet.Options(threads=2)).kernels.values()
    assert any(isinstance(k, Contraction) and k.dot is not None for k in kernels)
    wide = np.pad(x.astype(np.int64) - 7, ((0, 0), (0, 0), (1, 2), (0, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))
    exact = np.einsum("nchwij,mcij->nmhw", windows, weights.astype(np.int64))
    found = whet.compile(model, options=whet.Options(threads=2))({"x": x})["y"]
    np.testing.assert_array_equal(found, exact)


def test_the_mean_of_an_image_is_shared_out() -> None:
    x = drawn("float32", (1, 2048, 7, 7))
    model = model_of(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])], x, ("float32", (1, 2048, 1, 1))
    )
    found = whet.compile(model, options=whet.Options(threads=2))({"x": x})["y"]
    exact = x.astype(np.float64).mean((2, 3), keepdims=True)
    assert np.abs(found - exact).max() <= 50 * np.finfo(np.float32).eps * np.abs(x).max()

"""Copies that exchange axes: squares transposed in registers, the rest line by line."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet import driver
from whet.kernel.spec import Contraction, Nest


def _transposed(shape: list[int | str], perm: list[int]) -> onnx.ModelProto:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=perm)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[k] for k in perm])
    return helper.make_model(helper.make_graph([node], "transposed", [x], [y]))


def _is_square(model: onnx.ModelProto) -> bool:
    kernels = driver.plan(model, options=whet.Options(threads=2)).kernels.values()
    return any(isinstance(kernel, Nest) and kernel.squares for kernel in kernels)


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((64, 48), (1, 0)),
        ((67, 35), (1, 0)),
        ((3, 33, 50), (0, 2, 1)),
        ((2, 40, 3, 37), (0, 3, 2, 1)),
        ((5, 4, 19, 21), (3, 1, 0, 2)),
    ],
)
def test_squares_move_every_element(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    rng = np.random.default_rng()
    model = _transposed(list(shape), list(perm))
    assert _is_square(model)
    x = rng.standard_normal(shape).astype(np.float32)
    for threads in (1, 2):
        compiled = whet.compile(model, options=whet.Options(threads=threads))
        assert np.array_equal(compiled.run({"x": x})["y"], x.transpose(perm))


def test_sizes_of_the_run() -> None:
    rng = np.random.default_rng()
    model = _transposed(["rows", "columns"], [1, 0])
    compiled = whet.compile(model)
    for shape in ((0, 5), (1, 1), (16, 16), (31, 49), (100, 7)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert np.array_equal(compiled.run({"x": x})["y"], x.T)


def test_short_axes_are_no_squares() -> None:
    assert not _is_square(_transposed([1000, 3], [1, 0]))


def test_the_result_of_a_convolution_comes_as_the_caller_has_it() -> None:
    rng = np.random.default_rng()
    weight = rng.standard_normal((37, 20, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 20, 9, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 37, 9, 7])
    constant = onnx.numpy_helper.from_array(weight, "w")
    model = helper.make_model(helper.make_graph([node], "conv", [x], [y], [constant]))
    assert _is_square(model)
    value = rng.standard_normal((2, 20, 9, 7)).astype(np.float32)
    found = whet.compile(model).run({"x": value})["y"]
    exact = np.einsum("nchw,mc->nmhw", value.astype(np.float64), weight[:, :, 0, 0])
    terms = np.einsum("nchw,mc->nmhw", np.abs(value), np.abs(weight[:, :, 0, 0]))
    assert np.all(np.abs(found - exact) <= 21 * np.finfo(np.float32).eps * terms)


def test_windows_over_an_input_read_channels_side_by_side() -> None:
    rng = np.random.default_rng()
    weight = rng.standard_normal((21, 37, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 2, 0, 1], strides=[2, 1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 37, 9, 11])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 21, 4, 12])
    constant = onnx.numpy_helper.from_array(weight, "w")
    model = helper.make_model(helper.make_graph([node], "conv", [x], [y], [constant]))
    kernels = driver.plan(model, options=whet.Options(threads=1)).kernels.values()
    (product,) = [kernel for kernel in kernels if isinstance(kernel, Contraction)]
    assert product.a.address.coefficient(product.depth) == 1
    value = rng.standard_normal((2, 37, 9, 11)).astype(np.float32)
    wide = np.pad(value.astype(np.float64), ((0, 0), (0, 0), (1, 0), (2, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))[:, :, ::2]
    found = whet.compile(model).run({"x": value})["y"]
    exact = np.einsum("nchwij,mcij->nmhw", windows, weight)
    terms = np.einsum("nchwij,mcij->nmhw", np.abs(windows), np.abs(weight))
    assert np.all(np.abs(found - exact) <= (37 * 9 + 1) * np.finfo(np.float32).eps * terms)

"""Groups of few channels: merged into whole vectors, with the results of separate groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.objects.targets import resolve_target
from whet.kernel.spec import Contraction
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.tolerance import assert_close

AVX512 = "x86_64-unknown-linux-gnu:skylake-avx512"
AVX2 = "x86_64-unknown-linux-gnu:haswell"


def grouped(
    group: int, widths: tuple[int, int], *, stride: int = 1, size: int | str = 9, seed: int = 0
) -> onnx.ModelProto:
    """Return a 3x3 convolution with bias and Relu; widths are channels and filters of a group.

    It reads what a convolution of single channels leaves as it is, as that lies inside of networks.
    """
    rng = np.random.default_rng(seed)
    channels, filters = widths
    weight = rng.standard_normal((group * filters, channels, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(group * filters).astype(np.float32)
    strides = [stride, stride]
    ones = np.ones((group * channels, 1, 1, 1), np.float32)
    same = helper.make_node("Conv", ["x", "ones"], ["h"], group=group * channels)
    conv = helper.make_node(
        "Conv", ["h", "w", "b"], ["c"], group=group, pads=[1, 1, 1, 1], strides=strides
    )
    nodes = [same, conv, helper.make_node("Relu", ["c"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, group * channels, size, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    arrays = {"w": weight, "b": bias, "ones": ones}
    constants = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "grouped", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def reference(model: onnx.ModelProto, x: np.ndarray, stride: int) -> np.ndarray:
    """Return the convolution in double precision."""
    weight, bias = (
        numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer[:2]
    )
    group = x.shape[1] // weight.shape[1]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    parts = [
        np.einsum("nchwij,mcij->nmhw", w, k)
        for w, k in zip(np.split(windows, group, 1), np.split(weight, group), strict=True)
    ]
    found: np.ndarray = np.concatenate(parts, axis=1) + bias[:, None, None]
    return np.asarray(np.maximum(found, 0))


def merged_kernel(model: onnx.ModelProto, name: str, *, level: int = 3) -> Contraction:
    calls, _ = kernels_of(model, level=level, target=name)
    (found,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    return found


@pytest.mark.parametrize(("stride", "size"), [(1, 9), (2, 9), (1, "height")])
@pytest.mark.parametrize(
    ("group", "widths"), [(8, (4, 4)), (4, (3, 8)), (4, (8, 8)), (32, (2, 2)), (6, (5, 4))]
)
def test_merged_groups_give_what_groups_give(
    group: int, widths: tuple[int, int], stride: int, size: int | str
) -> None:
    model = grouped(group, widths, stride=stride, size=size, seed=group)
    x = np.random.default_rng().standard_normal((1, group * widths[0], 9, 7)).astype(np.float32)
    found = whet.compile(model, options=whet.Options(threads=2, cache_dir=""))({"x": x})["y"]
    expected = reference(model, x, stride)
    assert_close(found, expected, "product", length=9 * widths[0], scale=2.0)


@pytest.mark.parametrize(("name", "group", "wide"), [(AVX512, 8, 16), (AVX2, 8, 8)])
def test_a_vector_is_filled(name: str, group: int, wide: int) -> None:
    kernel = merged_kernel(grouped(group, (4, 4)), name)
    assert resolve_target(name).lanes == wide
    assert kernel.col.extent == wide
    assert kernel.spread == 4
    assert kernel.depth.extent == 4


@pytest.mark.parametrize(("group", "widths", "spread"), [(4, (8, 8), 8), (4, (3, 8), 0)])
def test_lanes_take_their_own_channels_where_groups_are_square(
    group: int, widths: tuple[int, int], spread: int
) -> None:
    assert merged_kernel(grouped(group, widths), AVX512).spread == spread


@pytest.mark.parametrize("group", [8, 16])
@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_agree_with_the_interpreter(
    group: int, width: int, stride: int, tmp_path: Path
) -> None:
    calls, target = kernels_of(grouped(group, (width, width), stride=stride))
    rng = np.random.default_rng(width)
    for call in calls:
        trial = trial_of(call, target, {}, rng, odd=False)
        for found, wanted in zip(
            execute(trial, tmp_path, threads=2), interpret(trial, precise=True), strict=True
        ):
            assert_close(found, wanted, "product", length=9 * width, scale=2.0)


def test_what_is_not_finite_stays_in_its_group() -> None:
    model = grouped(8, (4, 4))
    x = np.ones((1, 32, 9, 7), np.float32)
    x[0, 5, 4, 3] = np.inf
    found = whet.compile(model, options=whet.Options(threads=1, cache_dir=""))({"x": x})["y"]
    apart = [k for k in range(32) if k // 4 != 1]
    assert np.isfinite(found[0, apart]).all()
    assert not np.isfinite(found[0, 4:8, 3:6, 2:5]).all()


@pytest.mark.parametrize(("group", "widths"), [(8, (4, 4)), (4, (3, 8)), (32, (2, 2))])
def test_added_zeros_are_no_operations(group: int, widths: tuple[int, int]) -> None:
    model = grouped(group, widths)
    found = []
    for level in (2, 3):
        calls, _ = kernels_of(model, level=level, target=AVX512)
        (flops,) = [c.flops for c in calls if isinstance(c.kernel, Contraction)]
        found.append(flops)
    channels, filters = widths
    assert found == [2 * group * filters * channels * 9 * 9 * 7] * 2


@pytest.mark.parametrize(
    ("group", "widths", "level"),
    [
        (8, (4, 4), 2),  # numbers that are not finite stay in their group below level 3
        (6, (5, 4), 3),  # four groups do not divide six
        (4, (4, 16), 3),  # a vector is full
        (8, (4, 3), 3),  # three filters do not divide a vector
    ],
)
def test_other_groups_stay(group: int, widths: tuple[int, int], level: int) -> None:
    kernel = merged_kernel(grouped(group, widths), AVX512, level=level)
    assert kernel.depth.extent == widths[0]

"""Products of 8-bit integers on small images: a register tile takes several whole lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import host_target, resolve_target
from whet.kernel.spec import Contraction
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of

Array = np.ndarray[Any, np.dtype[Any]]
CASCADE = "x86_64-linux-gnu:cascadelake"


def convolution(shape: tuple[int, ...], filters: int, window: int, stride: int) -> onnx.ModelProto:
    """Return a padded convolution of bytes; images lie with channels last."""
    rng = np.random.default_rng(filters)
    weights = rng.integers(-128, 128, (filters, shape[1], window, window)).astype(np.int8)
    pad = window // 2
    strides = [stride, stride]
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("ConvInteger", ["first", "w"], ["sums"], pads=[pad] * 4, strides=strides),
        helper.make_node("Transpose", ["sums"], ["y"], perm=[0, 2, 3, 1]),
    ]
    sizes = [(n + 2 * pad - window) // stride + 1 for n in shape[2:]]
    graph = helper.make_graph(
        nodes,
        "lines",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [shape[k] for k in (0, 2, 3, 1)])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [shape[0], *sizes, filters])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def product_of(model: onnx.ModelProto) -> Contraction:
    """Return the only product of a model, for a Cascade Lake."""
    calls, _ = kernels_of(model, target=resolve_target(CASCADE))
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    return kernel


@pytest.mark.parametrize(
    ("shape", "lines"),
    [
        ((1, 64, 7, 7), 2),
        ((1, 64, 8, 7), 2),
        ((2, 32, 5, 4), 3),
        ((1, 32, 3, 5), 2),
        ((1, 64, 14, 14), None),
        ((1, 64, 28, 28), None),
    ],
)
def test_short_lines_fill_a_tile_together(shape: tuple[int, ...], lines: int | None) -> None:
    kernel = product_of(convolution(shape, 32, 3, 1))
    assert kernel.lines == lines
    if lines is not None:
        assert kernel.tile.rows == lines * shape[3]


@pytest.mark.parametrize(
    ("shape", "filters", "window", "stride"),
    [
        ((1, 32, 7, 7), 70, 3, 1),
        ((3, 20, 7, 7), 33, 3, 1),
        ((2, 24, 13, 13), 64, 1, 2),
        ((2, 16, 5, 4), 48, 3, 1),
        ((1, 16, 2, 7), 16, 3, 1),
    ],
)
def test_sums_are_those_of_the_interpreter(
    shape: tuple[int, ...], filters: int, window: int, stride: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng()
    host = host_target()
    calls, _ = kernels_of(convolution(shape, filters, window, stride), target=host)
    (call,) = [c for c in calls if isinstance(c.kernel, Contraction)]
    trial = trial_of(call, host, {}, rng, odd=False)
    for threads in (1, 2):
        (found,), (expected,) = (
            execute(trial, tmp_path, threads=threads),
            interpret(trial, precise=False),
        )
        np.testing.assert_array_equal(found, expected)


def test_sums_of_several_lines_stay_in_registers() -> None:
    target = resolve_target(CASCADE)
    kernel = product_of(convolution((1, 512, 7, 7), 512, 3, 1))
    assembly = assembly_of(kernel_text("k", kernel, (), target), target)
    loops = assembly.split("\n.LBB")
    innermost = max(loops, key=lambda block: block.count("vpdpbusd"))
    assert innermost.count("vpdpbusd") == kernel.tile.unroll * 28
    assert "(%rsp)" not in innermost


def test_a_tuned_tile_of_fewer_rows_takes_one_line() -> None:
    target = replace(resolve_target(CASCADE), dot="")
    calls, _ = kernels_of(convolution((1, 64, 7, 7), 32, 3, 1), target=target)
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    assert kernel.lines is None and kernel.tile.rows <= 7

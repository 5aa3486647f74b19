"""The assembly of products: accumulators stay in registers through the innermost loops."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.kernel.spec import Contraction
from whet.target import Target
from whet.tests.kernel_runner import kernels_of

AVX512 = "x86_64-unknown-linux-gnu:skylake-avx512"
AVX2 = "x86_64-unknown-linux-gnu:haswell"
MANY_REGISTERS = 32
LOWER_TILE = 13
LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"^\s+j\w+\s+(\.L\w+)")
SPILL = re.compile(r"v(?!broadcast)\w+\s.*\(%r[sb]p.*%[yz]mm|v\w+\s.*%[yz]mm\d+.*\(%r[sb]p")


def _model(
    node: onnx.NodeProto, shape: tuple[int, ...], weight: tuple[int, ...]
) -> onnx.ModelProto:
    values = np.random.default_rng(0).standard_normal(weight).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(values, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def matrix_product() -> onnx.ModelProto:
    return _model(helper.make_node("MatMul", ["x", "w"], ["y"]), (128, 768), (768, 768))


def convolution() -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return _model(node, (1, 64, 28, 28), (64, 64, 3, 3))


def integer_lines(pixels: int) -> onnx.ModelProto:
    """Return a 3x3 convolution of bytes, channels last, whose lines have so many pixels."""
    weights = np.random.default_rng(0).integers(-128, 128, (64, 64, 3, 3)).astype(np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("ConvInteger", ["p", "w"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "lines",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, (1, 64, pixels, pixels))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)],
        initializer=[numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def product_kernel(model: onnx.ModelProto, name: str) -> tuple[Contraction, Target]:
    """Return the one contraction of a model; level 2 keeps to the direct algorithm."""
    calls, target = kernels_of(model, level=2, target=name)
    (found,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    return found, target


def inner_loops(assembly: str) -> list[list[str]]:
    """Return the lines of every loop without another loop inside, by backward jumps."""
    lines = assembly.splitlines()
    places = {m.group(1): k for k, line in enumerate(lines) if (m := LABEL.match(line))}
    spans = []
    for k, line in enumerate(lines):
        jump = JUMP.match(line)
        start = places.get(jump.group(1)) if jump else None
        if start is not None and start < k:
            spans.append((start, k))
    inner = [s for s in spans if not any(s != t and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [lines[a:b] for a, b in inner]


def multiplies(loop: list[str]) -> int:
    return sum("vfmadd" in line or "vpdpbusd" in line for line in loop)


def spills(kernel: Contraction, target: Target) -> list[str]:
    """Return the references to the stack in the innermost loops, which hold a whole tile."""
    assembly = assembly_of(kernel_text("k", kernel, (), target), target)
    loops = [loop for loop in inner_loops(assembly) if multiplies(loop)]
    assert max(map(multiplies, loops)) >= kernel.tile.rows * kernel.tile.vectors
    return [line for loop in loops for line in loop if SPILL.search(line)]


@pytest.mark.parametrize("name", [AVX512, AVX2])
@pytest.mark.parametrize("model", [matrix_product, convolution])
def test_inner_loops_do_not_spill(model: Callable[[], onnx.ModelProto], name: str) -> None:
    kernel, target = product_kernel(model(), name)
    assert not spills(kernel, target)


@pytest.mark.parametrize(("pixels", "rows"), [(13, 13), (14, 14), (28, 10)])
def test_lines_of_bytes_are_whole_tiles(pixels: int, rows: int) -> None:
    kernel, target = product_kernel(integer_lines(pixels), "host")
    if target.dot != "vnni" or target.registers < MANY_REGISTERS:
        pytest.skip("looks for vpdpbusd of 512 bits")
    assert (kernel.tile.rows, kernel.tile.vectors) == (rows, 2)
    # 28 sums leave four registers: at a depth step one of them may wait on the stack
    assert len(spills(kernel, target)) <= (2 * kernel.tile.unroll if rows > LOWER_TILE else 0)


@pytest.mark.parametrize(
    ("pixels", "depth", "tile"),
    [
        (27, 512, (9, 2)),
        (28, 512, (14, 2)),
        (14, 512, (14, 2)),
        (7, 512, (14, 2)),
        (14, 15, (7, 3)),
    ],
)
def test_lines_of_floats_are_whole_tiles(pixels: int, depth: int, tile: tuple[int, int]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])
    model = _model(node, (1, depth, 2 * pixels, 2 * pixels), (128, depth, 1, 1))
    kernel, target = product_kernel(model, AVX512)
    assert (kernel.tile.rows, kernel.tile.vectors) == tile
    assert len(spills(kernel, target)) == 0


@pytest.mark.parametrize("name", [AVX512, AVX2])
def test_a_tile_larger_than_the_registers_spills(name: str) -> None:
    kernel, target = product_kernel(matrix_product(), name)
    wide = replace(kernel.tile, rows=2 * kernel.tile.rows)
    assert spills(replace(kernel, tile=wide), target)


def test_spills_are_seen() -> None:
    assert SPILL.search("\tvmovups\t%zmm3, 64(%rsp)")
    assert SPILL.search("\tvmovaps\t-32(%rbp), %ymm1")
    assert SPILL.search("\tvfmadd231ps\t128(%rsp), %zmm3, %zmm4")
    assert not SPILL.search("\tvmovups\t64(%rdi), %zmm3")

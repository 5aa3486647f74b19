"""Register tiles that end among the products of the next one: results, and when they are chosen."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import resolve_target
from whet.kernel.pipelining import choose_schedule, fits_pipelined, pipelined_variants
from whet.kernel.schedule import Work, choose_tile
from whet.kernel.schedules import Answer, Question, fits
from whet.kernel.spec import Contraction, Tile
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.test_conform_assembly import inner_loops
from whet.tune.candidates import candidates

ZEN4 = "x86_64-unknown-linux-gnu:znver4"
CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"
COLUMNS = 192


def convolution(
    channels: int,
    size: tuple[int, int],
    *,
    residual: bool,
    relu: bool = False,
    images: int = 1,
    stride: int = 1,
) -> onnx.ModelProto:
    """Return a 1x1 convolution of bytes, to which bytes of another input may be added."""
    rng = np.random.default_rng(channels)
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(113), "os": np.float32(0.9), "oz": np.uint8(97),
        "ys": np.float32(1.3), "yz": np.uint8(0 if relu else 120), "rs": np.float32(0.7),
        "w": rng.integers(-128, 128, (COLUMNS, channels, 1, 1)).astype(np.int8),
        "ws": rng.uniform(0.01, 0.4, COLUMNS).astype(np.float32),
        "wz": np.zeros(COLUMNS, np.int8),
        "b": rng.integers(-(10**6), 10**6, COLUMNS).astype(np.int32),
    }  # fmt: skip
    node = helper.make_node
    operands = ["x", "xs", "xz", "w", "ws", "wz", "os", "oz", "b"]
    nodes = [node("QLinearConv", operands, ["o"], strides=[stride, stride])]
    inputs: list[tuple[str, tuple[int, ...]]] = [("x", (images, channels, *size))]
    if residual:
        inputs.append(("r", (images, COLUMNS, *(-(-n // stride) for n in size))))
        nodes += [
            node("DequantizeLinear", ["o", "os", "oz"], ["p"]),
            node("DequantizeLinear", ["r", "rs", "xz"], ["q"]),
            node("Add", ["p", "q"], ["s"]),
            node("Relu", ["s"], ["t"]) if relu else node("Identity", ["s"], ["t"]),
            node("QuantizeLinear", ["t", "ys", "yz"], ["y"]),
        ]
    byte = onnx.TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, byte, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("y" if residual else "o", byte, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check(model: onnx.ModelProto, cache: Path, **schedule: int) -> None:
    """Compare the product of a model, in pipelined tiles, with the interpreter."""
    calls, target = kernels_of(model)
    found = [call for call in calls if isinstance(call.kernel, Contraction)]
    assert len(found) == 1
    (call,) = found
    kernel = call.kernel
    assert isinstance(kernel, Contraction)
    extent = kernel.col.extent.constant
    assert extent is not None
    assert extent % (kernel.tile.vectors * target.lanes) == 0
    plain = replace(kernel.tile, prefetch=0, block=0, near=0)
    tile = replace(plain, pipelined=True, **schedule)
    piped = replace(call, kernel=replace(kernel, tile=tile))
    trial = trial_of(piped, target, {}, np.random.default_rng(5), odd=False)
    for threads in (1, 2):
        results = execute(trial, cache, threads=threads)
        for result, expected in zip(results, interpret(trial, precise=False), strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("channels", [3, 5, 16, 64, 67, 260])
@pytest.mark.parametrize("residual", [False, True])
def test_depths_of_any_size(channels: int, tmp_path: Path, *, residual: bool) -> None:
    """Among them such that are shorter than the end of a tile, and not in whole lanes."""
    model = convolution(channels, (1, 37), residual=residual)
    check(model, tmp_path, rows=6, row_items=2, panels=2, unroll=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (1, 7), (1, 11), (13, 1), (7, 7)])
@pytest.mark.parametrize("rows", [1, 2, 5, 6])
def test_rows_of_any_number(size: tuple[int, int], rows: int, tmp_path: Path) -> None:
    model = convolution(32, size, residual=True, relu=True)
    check(model, tmp_path, rows=rows, row_items=3, panels=5, unroll=2)


@pytest.mark.parametrize(("items", "panels"), list(itertools.product((1, 2, 9), (1, 3, 100))))
@pytest.mark.parametrize("by_rows", [0, 1])
def test_chunks_of_any_size(items: int, panels: int, by_rows: int, tmp_path: Path) -> None:
    model = convolution(24, (5, 11), residual=True)
    check(model, tmp_path, rows=4, row_items=items, panels=panels, by_rows=bool(by_rows))


@pytest.mark.parametrize(("size", "line"), [((5, 13), 4), ((3, 27), 5), ((7, 3), 2)])
@pytest.mark.parametrize(("lines", "panels"), [(1, 2), (2, 1), (2, 100)])
def test_chunks_of_whole_lines(
    size: tuple[int, int], line: int, lines: int, panels: int, tmp_path: Path
) -> None:
    """Two images of 21, 28 and 8 pixels, whose tiles are of two heights or one."""
    model = convolution(20, size, residual=True, images=2, stride=2)
    check(model, tmp_path, rows=6, row_items=lines * line, panels=panels)


def _work(**changes: int) -> Work:
    """Return the widening 1x1 convolution of 64 channels on 56 x 56 pixels of ResNet-50."""
    return replace(Work(1, 3136, 256, 16, 16, False, pipelines=True), **changes)


def test_ends_of_shallow_products_are_pipelined_where_one_product_starts_a_cycle() -> None:
    target = resolve_target(ZEN4)
    tile = choose_schedule(_work(), target, 2)
    assert tile.pipelined
    assert fits(tile, _work(), target)
    for changes in (
        {"pipelines": False},
        {"reduction": 256, "depth": 256},
        {"rows": 5},
        {"cols": 250},
        {"cols": 16},
        {"rows": 196},
    ):
        assert not choose_schedule(_work(**changes), target, 2).pipelined, changes
    other = resolve_target(CASCADELAKE)
    assert choose_schedule(_work(), other, 2) == choose_tile(_work(), other, 2)


def test_the_tuner_tries_both_and_knows_what_cannot_be() -> None:
    target = resolve_target(CASCADELAKE)
    question = Question(_work(), target, 2)
    plain = choose_schedule(_work(), target, 2)
    options = candidates(question, Answer(0, plain))
    piped = [a.tile for a in options if a.tile is not None and a.tile.pipelined]
    assert pipelined_variants(plain, _work(), target) == piped[-1:]
    back = candidates(question, Answer(0, piped[0]))
    assert Answer(0, plain) in back
    assert all(fits(a.tile, _work(), target) for a in (*options, *back) if a.tile is not None)
    (tile,) = pipelined_variants(plain, _work(), target)
    wrong: tuple[dict[str, int], ...] = (
        {"rows": 7}, {"vectors": 5}, {"block": 8}, {"prefetch": 1}, {"near": 8},
    )  # fmt: skip
    for change in wrong:
        assert not fits(replace(tile, **change), _work(), target), change
    assert not fits_pipelined(tile, _work(pipelines=False), target)


def test_a_model_for_that_processor_has_such_tiles() -> None:
    def tile_of(model: onnx.ModelProto, target: str) -> Tile:
        kernels = [c.kernel for c in kernels_of(model, target=target)[0]]
        (tile,) = (k.tile for k in kernels if isinstance(k, Contraction))
        return tile

    model = convolution(64, (56, 56), residual=True)
    assert tile_of(model, ZEN4).pipelined
    assert not tile_of(model, CASCADELAKE).pipelined
    assert not tile_of(convolution(64, (14, 14), residual=True), ZEN4).pipelined
    assert not tile_of(convolution(1024, (14, 14), residual=True), ZEN4).pipelined


def test_ends_are_among_the_products() -> None:
    """LLVM may move them, but not together: 150 instructions of them stand in a loop of 500."""
    target = resolve_target(ZEN4)
    (kernel,) = (
        c.kernel
        for c in kernels_of(convolution(64, (56, 56), residual=True), target=target)[0]
        if isinstance(c.kernel, Contraction)
    )
    assert kernel.tile.pipelined
    text = assembly_of(kernel_text("k", kernel, (), target), target)
    seen = 0
    for loop in inner_loops(text):
        products = [k for k, line in enumerate(loop) if "vpdpbusd" in line]
        if products and any("vcvtps2dq" in line for line in loop):
            seen += 1
            assert max(np.diff(products)) < 75
    assert seen

"""Products in blocks of the depth, and rows that do not crowd the cache."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

import whet
from whet.codegen.kinds.row_pieces import piece_heights
from whet.codegen.objects.targets import resolve_target
from whet.driver import plan
from whet.kernel.schedule import Work, choose_tile
from whet.kernel.spec import Contraction
from whet.program.records import NO_SCRATCH, BufferKind
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.tolerance import assert_close

CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"


def _model(
    nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, tuple[int, ...]]
) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    constants = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def product(rows: int | str) -> onnx.ModelProto:
    """Return a product with bias; 70 columns are no whole panels."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return _model(nodes, [rows, 96], {"w": (96, 70), "b": (70,)})


def convolution(**attributes: Any) -> onnx.ModelProto:
    """Return a 3x3 convolution of 48 channels with zeros around the image."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], **attributes)
    return _model([node], [2, 48, 9, 11], {"w": (37, 48, 3, 3)})


@pytest.mark.parametrize("size", [16, 24, 48])
@pytest.mark.parametrize(
    ("model", "dims"),
    [
        (product(37), {}),
        (product("N"), {"N": 1}),
        (product("N"), {"N": 16}),
        (product("N"), {"N": 29}),
        (convolution(), {}),
        (convolution(strides=[2, 2], dilations=[2, 1]), {}),
    ],
    ids=["rows", "one-row", "few-rows", "open-rows", "conv", "strided"],
)
def test_blocks_agree_with_the_interpreter(
    model: onnx.ModelProto, dims: dict[str, int], size: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(size)
    calls, target = kernels_of(model, level=2)
    seen = 0
    for call in calls:
        if not isinstance(call.kernel, Contraction):
            continue
        seen += 1
        tile = replace(call.kernel.tile, block=size, row_items=3, panels=2, unroll=8)
        blocked = replace(call, kernel=replace(call.kernel, tile=tile))
        trial = trial_of(blocked, target, dims, rng, odd=False)
        (found,) = execute(trial, tmp_path, threads=2)
        (expected,) = interpret(trial, precise=True)
        assert_close(found, expected, "product", dtype="float32", length=trial.length, scale=30.0)
    assert seen


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 11, 12, 14, 16, 18, 27, 40])
def test_any_number_of_rows_known_by_the_run(rows: int, tmp_path: Path) -> None:
    """Tiles are cut into pieces that overlap at the end."""
    rng = np.random.default_rng(rows)
    ((call,), target) = kernels_of(product("N"), level=2)
    trial = trial_of(call, target, {"N": rows}, rng, odd=False)
    (found,) = execute(trial, tmp_path, threads=2)
    (expected,) = interpret(trial, precise=True)
    assert_close(found, expected, "product", dtype="float32", length=trial.length, scale=30.0)


def test_pieces_reach_every_height() -> None:
    assert piece_heights(13) == [13, 11, 10, 8, 7, 3, 1]
    assert piece_heights(1) == [1]


def test_deep_products_are_cut_into_equal_blocks() -> None:
    target = resolve_target(CASCADELAKE)
    deep = choose_tile(Work(1, 128, 768, 3072, 3072, False, blocks=True), target, 1)
    assert deep.block == 512
    whole = choose_tile(Work(1, 128, 768, 64, 64, False, blocks=True), target, 1)
    assert whole.block == 0
    prime = choose_tile(Work(1, 128, 768, 3067, 3067, False, blocks=True), target, 1)
    assert prime.block == 0, "no block divides a prime depth"
    one = choose_tile(Work(1, 1, 768, 3072, 3072, False, blocks=True), target, 1)
    assert one.block == 0, "one row reads every weight once"


def test_a_panel_that_leaves_room_for_rows_is_one_block() -> None:
    target = resolve_target(CASCADELAKE)
    for rows, cols in ((128, 768), (197, 2304), (384, 3072)):
        tile = choose_tile(Work(1, rows, cols, 768, 768, False, blocks=True), target, 2)
        assert tile.block == 0
        panel = 768 * tile.vectors * target.vector_bytes
        near = tile.row_items * tile.rows * 768 * 4 + 2 * panel
        assert near <= 3 * target.l2_bytes // 4
        assert 2 * tile.row_items >= -(-min(rows, 197) // tile.rows), (
            "a panel is read twice at most"
        )
    cold = choose_tile(Work(1, 197, 3072, 768, 768, False, blocks=True), target, 1)
    weights = cold.panels * 768 * cold.vectors * target.vector_bytes
    assert weights <= 2 * target.l2_bytes, "later rows find the same panels near"


def test_chunks_cover_every_size_and_are_enough() -> None:
    target = resolve_target(CASCADELAKE)
    for rows, cols, depth in itertools.product((1, 13, 196, 784), (16, 96, 1024), (9, 64, 4096)):
        tile = choose_tile(Work(1, rows, cols, depth, depth, False), target, 2)
        items, panels = -(-rows // tile.rows), -(-cols // (tile.vectors * target.lanes))
        assert 1 <= tile.row_items <= items
        assert 1 <= tile.panels <= panels
    even = choose_tile(Work(1, 196, 1024, 64, 64, False), target, 2)
    assert -(-196 // even.rows) * -(-1024 // (even.panels * even.vectors * 16)) >= 32


def test_sums_that_wait_have_scratch() -> None:
    assembled = plan(_deep(), options=whet.Options(threads=1, target=CASCADELAKE))
    kernels = [k for k in assembled.kernels.values() if isinstance(k, Contraction)]
    tiles = [k.tile for k in kernels if k.tile.block]
    assert tiles
    sums = max(t.row_items * t.panels * t.rows * t.vectors * 16 for t in tiles)
    program = assembled.program
    (size,) = {b.size_bytes for b in program.buffers if b.kind is BufferKind.SCRATCH}
    assert (size.constant or 0) >= 4 * sums
    users = {x.kernel for x in program.launches if x.scratch != NO_SCRATCH}
    blocked = {
        n for n, k in assembled.kernels.items() if isinstance(k, Contraction) and k.tile.block
    }
    assert users == blocked


def _deep() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return _model(nodes, [64, 32], {"w": (32, 2048), "v": (2048, 256)})


def test_rows_that_would_crowd_the_cache_lie_apart() -> None:
    program = plan(_deep(), options=whet.Options(threads=1, target=CASCADELAKE)).program
    sizes = {b.name: b.size_bytes.constant for b in program.buffers}
    assert sizes["r"] == 64 * (2048 * 4 + 64)

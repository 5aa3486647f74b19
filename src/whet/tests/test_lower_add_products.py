"""Two products that are added up: one kernel over both depths, and which stay two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.objects.targets import resolve_target
from whet.driver import plan
from whet.kernel.chain import Chain
from whet.kernel.spec import Contraction
from whet.kernel.text import kernel_spec_text
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.tolerance import assert_close

AVX512 = "x86_64-unknown-linux-gnu:skylake-avx512"
AVX2 = "x86_64-unknown-linux-gnu:haswell"
REWRITES = {"add_products": None}
Array = np.ndarray[Any, np.dtype[Any]]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array],
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    constants = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(list(nodes), "added", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weight(rng: np.random.Generator, *shape: int) -> Array:
    values: Array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return values


def shortcut(
    widths: tuple[int, int, int], size: tuple[int | str, int, int], stride: int = 2
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a block's last 1x1 convolution, its shortcut over every other pixel, and Relu."""
    rng = np.random.default_rng()
    (narrow, before, wide), (batch, height, width) = widths, size
    weights = {
        "w": weight(rng, wide, narrow, 1, 1),
        "b": weight(rng, wide),
        "v": weight(rng, wide, before, 1, 1),
        "c": weight(rng, wide),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["p"]),
        helper.make_node("Conv", ["r", "v", "c"], ["q"], strides=[stride, stride]),
        helper.make_node("Add", ["p", "q"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    large = (stride * height - stride + 1, stride * width - stride + 1)
    shapes = {"x": (batch, narrow, height, width), "r": (batch, before, *large)}
    return model_of(nodes, shapes, weights), weights


def expected_shortcut(weights: dict[str, Array], x: Array, r: Array, stride: int) -> Array:
    """Return the block in double precision."""
    w, b, v, c = (weights[n].astype(np.float64) for n in ("w", "b", "v", "c"))
    pixels = r[:, :, ::stride, ::stride].astype(np.float64)
    sums = np.einsum("mc,nchw->nmhw", w[..., 0, 0], x.astype(np.float64))
    sums += np.einsum("mc,nchw->nmhw", v[..., 0, 0], pixels)
    result: Array = np.maximum(sums + (b + c)[:, None, None], 0)
    return result


def joined(model: onnx.ModelProto, target: Any = AVX512, **options: Any) -> list[Contraction]:
    """Return the products of two operands."""
    calls, _ = kernels_of(model, target=target, rewrites=REWRITES, **options)
    return [c.kernel for c in calls if isinstance(c.kernel, Contraction) and c.kernel.second]


def small_cache(name: str = AVX512) -> Any:
    """Return a processor whose second cache holds little, so that every result is large."""
    return replace(resolve_target(name), l2_bytes=4096)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("widths", "size", "stride"),
    [
        ((24, 17, 100), (1, 37, 41), 2),  # rows of odd length, columns with masks
        ((16, 40, 257), (1, 36, 28), 2),  # whole lines of 28 in register tiles of 14
        ((5, 3, 33), ("batch", 9, 7), 1),  # short depths, a batch that only the run knows
        ((9, 4, 11), (3, 1, 1), 1),
    ],
)
def test_shortcuts(
    widths: tuple[int, int, int],
    size: tuple[int | str, int, int],
    stride: int,
    threads: int,
    cache: Path,
) -> None:
    rng = np.random.default_rng()
    model, weights = shortcut(widths, size, stride)
    (kernel,) = joined(model, small_cache())
    assert kernel.depth.extent == widths[0] + widths[1]
    compiled = whet.compile(model, options=whet.Options(threads=threads, cache_dir=cache))
    given = {s.name: s.shape for s in compiled.inputs}
    for batch in (0, 1, 3) if isinstance(size[0], str) else (size[0],):
        x, r = (
            rng.standard_normal((batch, *given[n][1:])).astype(np.float32)  # type: ignore[arg-type]
            for n in ("x", "r")
        )
        expected = expected_shortcut(weights, x, r, stride)
        found = compiled({"x": x, "r": r})["y"]
        assert_close(found, expected, "product", length=widths[0] + widths[1], scale=2.0)


@pytest.mark.parametrize("target", ["host", AVX2])
@pytest.mark.parametrize(
    ("widths", "pixels"), [((7, 30, 70), (23, 5)), ((16, 64, 40), (14, 14)), ((64, 32, 64), (7, 7))]
)
def test_agrees_with_the_interpreter(
    widths: tuple[int, int, int], pixels: tuple[int, int], target: str, cache: Path
) -> None:
    rng = np.random.default_rng()
    model, _ = shortcut(widths, (2, *pixels))
    calls, chosen = kernels_of(model, target=small_cache(target), rewrites=REWRITES)
    (call,) = [c for c in calls if isinstance(c.kernel, Contraction)]
    assert isinstance(call.kernel, Contraction)
    assert call.kernel.second is not None
    for odd in (False, True):
        trial = trial_of(call, chosen, {}, rng, odd=odd)
        (found,) = execute(trial, cache, threads=2)
        (expected,) = interpret(trial, precise=True)
        assert_close(found, expected, "product", length=trial.length, scale=4.0)


@pytest.mark.parametrize("block", [16, 32])
def test_blocks_of_the_depth_end_with_an_operand(block: int, cache: Path) -> None:
    """A block of 32 lies across the end of 48 depth values, one of 16 does not."""
    rng = np.random.default_rng()
    model, _ = shortcut((48, 48, 40), (1, 11, 13))
    calls, chosen = kernels_of(model, target=small_cache("host"), rewrites=REWRITES)
    (call,) = [c for c in calls if isinstance(c.kernel, Contraction)]
    kernel = call.kernel
    assert isinstance(kernel, Contraction)
    tile = replace(kernel.tile, block=block, unroll=4, row_items=2)
    call = replace(call, kernel=replace(kernel, tile=tile))
    trial = trial_of(call, chosen, {}, rng, odd=False)
    (found,) = execute(trial, cache, threads=2)
    (expected,) = interpret(trial, precise=True)
    assert_close(found, expected, "product", length=trial.length, scale=4.0)


def two_layers(rows: int | str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return ``tanh(x w + b + h u)``, a step of a plain recurrent network."""
    rng = np.random.default_rng()
    weights = {"w": weight(rng, 19, 45), "b": weight(rng, 45), "u": weight(rng, 45, 45)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["p"]),
        helper.make_node("MatMul", ["h", "u"], ["q"]),
        helper.make_node("Add", ["q", "p"], ["s"]),
        helper.make_node("Tanh", ["s"], ["y"]),
    ]
    return model_of(nodes, {"x": (rows, 19), "h": (rows, 45)}, weights), weights


@pytest.mark.parametrize("rows", [0, 1, 13, "rows"])
def test_sums_of_two_matrix_products(rows: int | str, cache: Path) -> None:
    rng = np.random.default_rng()
    model, weights = two_layers(rows)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    assert compiled.stats.launches <= 1
    for count in (0, 1, 30) if isinstance(rows, str) else (rows,):
        x, h = (rng.standard_normal((count, n)).astype(np.float32) for n in (19, 45))
        w, b, u = (weights[n].astype(np.float64) for n in ("w", "b", "u"))
        found = compiled({"x": x, "h": h})["y"]
        assert_close(found, np.tanh(x @ w + b + h @ u), "graph", length=64)


def test_the_same_bits_on_any_threads(cache: Path) -> None:
    rng = np.random.default_rng()
    model, _ = shortcut((24, 17, 100), (1, 37, 41), 1)
    x, r = (rng.standard_normal((1, n, 37, 41)).astype(np.float32) for n in (24, 17))
    one, *others = (
        whet.compile(model, options=whet.Options(threads=t, cache_dir=cache))({"x": x, "r": r})["y"]
        for t in (1, 2, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other, one)


def test_what_is_not_a_number_stays_with_its_pixel(cache: Path) -> None:
    model, _ = shortcut((24, 17, 100), (1, 9, 13), 1)
    x, r = (np.ones((1, n, 9, 13), np.float32) for n in (24, 17))
    r[0, 3, 4, 5] = np.nan
    y = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))({"x": x, "r": r})["y"]
    assert np.isnan(y[0, :, 4, 5]).all()
    assert np.isnan(y).sum() == y.shape[1]


def test_a_chain_begins_with_both(cache: Path) -> None:
    rng = np.random.default_rng()
    weights = {"w": weight(rng, 24, 128), "u": weight(rng, 40, 128), "v": weight(rng, 128, 48)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("MatMul", ["r", "u"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["s"]),
        helper.make_node("Relu", ["s"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["y"]),
    ]
    model = model_of(nodes, {"x": (4101, 24), "r": (4101, 40)}, weights)
    passes: dict[str, bool | int] = {"pair_products": False}
    assembled = plan(model, options=whet.Options(threads=2, passes=passes))
    (chain,) = assembled.kernels.values()
    assert isinstance(chain, Chain)
    assert [part.second is not None for part in chain.parts] == [True, False]
    x, r = (rng.standard_normal((4101, n)).astype(np.float32) for n in (24, 40))
    found = whet.compile(model, options=whet.Options(threads=2, passes=passes, cache_dir=cache))(
        {"x": x, "r": r}
    )
    sums = x.astype(np.float64) @ weights["w"] + r.astype(np.float64) @ weights["u"]
    expected = np.maximum(sums, 0) @ weights["v"].astype(np.float64)
    assert_close(found["y"], expected, "graph", length=128)


def test_the_text_says_where_the_second_begins() -> None:
    model, _ = shortcut((24, 17, 100), (1, 9, 13), 1)
    (kernel,) = joined(model)
    assert "from depth 17 on" in kernel_spec_text("both", kernel)


# -- near misses -----------------------------------------------------------------------------------


def _scaled(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes[2].input[0] = "scaled"
    nodes.insert(2, helper.make_node("Tanh", ["p"], ["scaled"]))


def _subtracted(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes[2].op_type = "Mul"


def _also_given_out(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes.append(helper.make_node("Identity", ["p"], ["p_out"]))
    nodes.append(helper.make_node("Identity", ["q"], ["q_out"]))


def _three_by_three(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    weights["v"] = np.tile(weights["v"], (1, 1, 3, 3))
    nodes[1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))


def _one_pixel(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes.insert(0, helper.make_node("GlobalAveragePool", ["x"], ["mean"]))
    nodes[1].input[0] = "mean"


Change = Callable[[list[onnx.NodeProto], dict[str, Array]], None]


@pytest.mark.parametrize(
    "change", [_scaled, _subtracted, _also_given_out, _three_by_three, _one_pixel]
)
def test_others_stay_two(change: Change) -> None:
    model, weights = shortcut((24, 17, 100), (1, 9, 13), 1)
    assert joined(model)
    nodes = list(model.graph.node)
    change(nodes, weights)
    outputs = ("y", *(o for n in nodes for o in n.output if o.endswith("_out")))
    shapes = {"x": (1, 24, 9, 13), "r": (1, 17, 9, 13)}
    assert not joined(model_of(nodes, shapes, weights, outputs))


def test_weights_that_are_given_stay_two() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("MatMul", ["r", "u"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    shapes = {"x": (9, 24), "r": (9, 40), "u": (40, 33)}
    assert not joined(model_of(nodes, shapes, {"w": np.ones((24, 33), np.float32)}))


def test_pixels_are_left_out_only_for_large_results() -> None:
    model, _ = shortcut((24, 17, 100), (1, 9, 13), 2)
    assert not joined(model)
    assert joined(model, small_cache())


def test_the_switch_and_the_level() -> None:
    model, _ = two_layers(7)

    def launches(**options: Any) -> int:
        return len(plan(model, options=whet.Options(**options)).program.launches)

    assert launches() == 1
    assert launches(passes={"add_products": False}) == 2
    assert launches(passes={"add_products": 0}) == 2
    assert launches(opt_level=2) == 2, "sums in another order are level 3"

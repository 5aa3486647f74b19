"""Products over the same rows as one kernel: same results, what is stored, and what stays apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.driver import plan
from whet.errors import OptionError
from whet.kernel.chain import Chain
from whet.program.records import BufferKind
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.tolerance import assert_close

AVX2 = "x86_64-unknown-linux-gnu:haswell"
Array = np.ndarray[Any, np.dtype[Any]]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[int | str]],
    weights: dict[str, Array],
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    constants = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(list(nodes), "chain", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weight(rng: np.random.Generator, *shape: int) -> Array:
    values: Array = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    return values


def bottleneck(
    rng: np.random.Generator, widths: tuple[int, int, int], size: tuple[int | str, int, int]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a 1x1 convolution that widens, its residual and Relu, and one that narrows."""
    narrow, wide, last = widths
    batch, height, width = size
    weights = {
        "w": weight(rng, wide, narrow),
        "b": weight(rng, wide),
        "v": weight(rng, last, wide),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w4", "b"], ["c"]),
        helper.make_node("Add", ["c", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["z"]),
        helper.make_node("Conv", ["z", "v4"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    shapes = {"x": (batch, narrow, height, width), "r": (batch, wide, height, width)}
    held = {
        "w4": weights["w"][..., None, None],
        "b": weights["b"],
        "v4": weights["v"][..., None, None],
    }
    return model_of(nodes, shapes, held, ("y", "z")), weights


def expected_bottleneck(weights: dict[str, Array], x: Array, r: Array) -> tuple[Array, Array]:
    """Return both outputs in double precision."""
    w, b, v = (weights[n].astype(np.float64) for n in ("w", "b", "v"))
    wide = np.einsum("mc,nchw->nmhw", w, x.astype(np.float64)) + b[:, None, None]
    z = np.maximum(wide + r, 0)
    return np.maximum(np.einsum("mc,nchw->nmhw", v, z), 0), z


def chains_of(model: onnx.ModelProto, **options: Any) -> list[Chain]:
    """Return the chains of a program, of which no product is taken in pairs."""
    passes = {"pair_products": False, **options.pop("passes", {})}
    assembled = plan(model, options=whet.Options(threads=2, passes=passes, **options))
    return [k for k in assembled.kernels.values() if isinstance(k, Chain)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("widths", "size"),
    [
        ((24, 100, 17), (1, 47, 59)),  # a last block that begins early, columns with masks
        ((16, 256, 48), (2, 32, 33)),  # rows of a power of two
        ((7, 33, 5), ("batch", 25, 21)),  # less than a vector, a batch that the run knows
    ],
)
def test_widening_residual_and_narrowing(
    widths: tuple[int, int, int], size: tuple[int | str, int, int], threads: int, cache: Path
) -> None:
    rng = np.random.default_rng()
    model, weights = bottleneck(rng, widths, size)
    (chain,) = chains_of(model)
    assert len(chain.parts) == 2
    assert not chain.inner, "the wide result is an output"
    compiled = whet.compile(model, options=whet.Options(threads=threads, cache_dir=cache))
    for batch in (1, 3) if isinstance(size[0], str) else (size[0],):
        x = rng.standard_normal((batch, widths[0], *size[1:])).astype(np.float32)
        r = rng.standard_normal((batch, widths[1], *size[1:])).astype(np.float32)
        found = compiled({"x": x, "r": r})
        y, z = expected_bottleneck(weights, x, r)
        assert_close(found["z"], z, "product", length=widths[0])
        assert_close(found["y"], y, "product", length=widths[1] * widths[0])


def mlp(rng: np.random.Generator, rows: int | str) -> onnx.ModelProto:
    """Return two dense layers with an activation between them."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["y"]),
    ]
    weights = {"w": weight(rng, 40, 128), "b": weight(rng, 128), "v": weight(rng, 128, 21)}
    return model_of(nodes, {"x": (rows, 40)}, weights)


def test_what_nobody_else_reads_is_not_stored(cache: Path) -> None:
    rng = np.random.default_rng()
    model = mlp(rng, 2061)
    (chain,) = chains_of(model)
    assert [i.width for i in chain.inner] == [128]
    options = whet.Options(threads=2, cache_dir=cache)
    compiled = whet.compile(model, options=options)
    assert compiled.stats.launches == 1
    kinds = {b.kind for b in compiled.program.buffers}
    assert BufferKind.TEMP not in kinds
    x = rng.standard_normal((2061, 40)).astype(np.float32)
    w, b, v = (numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer)
    expected = 1 / (1 + np.exp(-(x @ w + b))) @ v
    assert_close(compiled({"x": x})["y"], expected, "graph", length=128)


def test_the_same_bits_as_apart_on_any_threads(cache: Path) -> None:
    rng = np.random.default_rng()
    model, _ = bottleneck(rng, (24, 100, 17), (1, 47, 59))
    x, r = (rng.standard_normal((1, n, 47, 59)).astype(np.float32) for n in (24, 100))
    results = []
    for threads, chained in ((2, False), (1, True), (2, True), (3, True)):
        passes: dict[str, bool | int] = {"chain_products": chained}
        options = whet.Options(threads=threads, passes=passes, cache_dir=cache)
        results.append(whet.compile(model, options=options)({"x": x, "r": r}))
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value)


@pytest.mark.parametrize("target", [AVX2, "host"])
def test_agrees_with_the_interpreter(target: str, cache: Path) -> None:
    rng = np.random.default_rng()
    calls, chosen = kernels_of(three_layers(rng), target=target, rewrites={"chain_products": None})
    (call,) = [c for c in calls if isinstance(c.kernel, Chain)]
    trial = trial_of(call, chosen, {}, rng, odd=False)
    (found,) = execute(trial, cache, threads=2)
    (expected,) = interpret(trial, precise=True)
    assert_close(found, expected, "graph", length=trial.length)


def three_layers(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["a0"]),
        helper.make_node("MatMul", ["a0", "w1"], ["h1"]),
        helper.make_node("Add", ["h1", "a0"], ["a1"]),
        helper.make_node("MatMul", ["a1", "w2"], ["y"]),
    ]
    weights = {"w0": weight(rng, 32, 64), "w1": weight(rng, 64, 64), "w2": weight(rng, 64, 48)}
    return model_of(nodes, {"x": (4100, 32)}, weights)


def test_three_products_and_a_residual_inside(cache: Path) -> None:
    rng = np.random.default_rng()
    model = three_layers(rng)
    (chain,) = chains_of(model)
    assert len(chain.parts) == 3
    assert len(chain.inner) == 2
    x = rng.standard_normal((4100, 32)).astype(np.float32)
    w0, w1, w2 = (numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer)
    first = np.maximum(x @ w0, 0)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    assert_close(compiled({"x": x})["y"], (first @ w1 + first) @ w2, "graph", length=64)


def test_the_switch_turns_chains_off_or_counts_them() -> None:
    model = three_layers(np.random.default_rng())
    assert not chains_of(model, passes={"chain_products": False})
    assert not chains_of(model, passes={"chain_products": 0})
    (one,) = chains_of(model, passes={"chain_products": 1})
    assert len(one.parts) == 2
    assert not chains_of(model, opt_level=1)
    with pytest.raises(OptionError, match="chain_product"):
        chains_of(model, passes={"chain_product": True})


@pytest.mark.parametrize(
    "shape",
    [(2061, 40, 3000, 400), (261, 40, 128, 21)],
    ids=["weights that the second cache does not hold", "a result that it keeps"],
)
def test_others_stay_apart(shape: tuple[int, int, int, int]) -> None:
    rows, depth, wide, cols = shape
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    weights = {"w": weight(rng, depth, wide), "v": weight(rng, wide, cols)}
    assert not chains_of(model_of(nodes, {"x": (rows, depth)}, weights))


def test_other_rows_stay_apart() -> None:
    """A strided product reads rows that other blocks make."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Conv", ["h", "v"], ["y"], strides=[2, 1]),
    ]
    weights = {"w": weight(rng, 64, 16, 1, 1), "v": weight(rng, 16, 64, 1, 1)}
    assert not chains_of(model_of(nodes, {"x": (1, 16, 80, 80)}, weights))

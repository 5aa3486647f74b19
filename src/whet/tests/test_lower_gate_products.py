"""Products of gated channels: the weights take the gate, and which images are still multiplied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.driver import plan
from whet.kernel.spec import Contraction
from whet.kernel.text import kernel_spec_text
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.test_lower_add_products import weight
from whet.tests.tolerance import assert_close

AVX512 = "x86_64-unknown-linux-gnu:skylake-avx512"
AVX2 = "x86_64-unknown-linux-gnu:haswell"
NEON = "aarch64-unknown-linux-gnu:cortex-a72"
REWRITES = {"gate_products": None}
Array = np.ndarray[Any, np.dtype[Any]]


def nodes_of(stride: int = 1, *, swapped: bool = False) -> list[onnx.NodeProto]:
    """Return squeeze and excitation, and the 1x1 convolution behind it."""
    factors = ["g", "r"] if swapped else ["r", "g"]
    return [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["mean"]),
        helper.make_node("Conv", ["mean", "u"], ["narrow"]),
        helper.make_node("Relu", ["narrow"], ["few"]),
        helper.make_node("Conv", ["few", "v"], ["wide"]),
        helper.make_node("Sigmoid", ["wide"], ["g"]),
        helper.make_node("Mul", factors, ["gated"]),
        helper.make_node("Conv", ["gated", "w", "b"], ["c"], strides=[stride, stride]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]


def weights_of(channels: int, results: int) -> dict[str, Array]:
    rng = np.random.default_rng()
    return {
        "u": weight(rng, 5, channels, 1, 1),
        "v": weight(rng, channels, 5, 1, 1),
        "w": weight(rng, results, channels, 1, 1),
        "b": weight(rng, results),
    }


def model_of(
    nodes: list[onnx.NodeProto],
    shape: tuple[int | str, ...],
    weights: dict[str, Array],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("x", dtype, shape)]
    names = ["y", *(o for n in nodes for o in n.output if o.endswith("_out"))]
    made = [helper.make_tensor_value_info(n, dtype, None) for n in names]
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants = [numpy_helper.from_array(w.astype(kind), n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "gated", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def expected_of(weights: dict[str, Array], x: Array, stride: int) -> Array:
    """Return the block in double precision."""
    u, v, w, b = (weights[n].astype(np.float64) for n in ("u", "v", "w", "b"))
    r = np.maximum(x.astype(np.float64), 0)
    few = np.maximum(r.mean((2, 3)) @ u[..., 0, 0].T, 0)
    gate = 1 / (1 + np.exp(-few @ v[..., 0, 0].T))
    gated = (r * gate[:, :, None, None])[:, :, ::stride, ::stride]
    sums = np.einsum("mc,nchw->nmhw", w[..., 0, 0], gated) + b[:, None, None]
    result: Array = np.maximum(sums, 0)
    return result


def gated(model: onnx.ModelProto, target: str = AVX512, **options: Any) -> list[Contraction]:
    """Return the products that take a gate."""
    options = {"rewrites": REWRITES, **options}
    calls, _ = kernels_of(model, target=target, **options)
    return [c.kernel for c in calls if isinstance(c.kernel, Contraction) and c.kernel.gate]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("results", "shape", "stride"),
    [
        (24, (1, 33, 13, 17), 1),
        (40, (3, 16, 7, 7), 1),  # a batch: rows of images do not join
        (17, ("batch", 20, 5, 3), 1),
        (100, (2, 24, 14, 14), 2),  # lines of 7, two of which fill a register tile
        (1, (1, 31, 28, 28), 1),
        (19, (2, 2, 4, 4), 1),
    ],
)
def test_results(
    results: int, shape: tuple[int | str, int, int, int], stride: int, threads: int, cache: Path
) -> None:
    rng = np.random.default_rng()
    channels, *pixels = shape[1:]
    weights = weights_of(channels, results)
    model = model_of(nodes_of(stride, swapped=threads > 1), shape, weights)
    (kernel,) = gated(model)
    assert kernel.gate is not None
    assert "gate" in kernel_spec_text("gated", kernel)
    compiled = whet.compile(model, options=whet.Options(threads=threads, cache_dir=cache))
    for batch in (0, 1, 4) if isinstance(shape[0], str) else (shape[0],):
        x = rng.standard_normal((batch, channels, *pixels)).astype(np.float32)
        expected = expected_of(weights, x, stride) if batch else np.zeros((0, results, *pixels))
        assert_close(compiled({"x": x})["y"], expected, "graph", length=channels)


@pytest.mark.parametrize("target", ["host", AVX2])
@pytest.mark.parametrize("pixels", [(23, 5), (14, 14), (7, 7)])
def test_agrees_with_the_interpreter(pixels: tuple[int, int], target: str, cache: Path) -> None:
    rng = np.random.default_rng()
    model = model_of(nodes_of(), (2, 30, *pixels), weights_of(30, 45))
    calls, chosen = kernels_of(model, target=target, rewrites=REWRITES)
    (call,) = [c for c in calls if isinstance(c.kernel, Contraction) and c.kernel.gate]
    for odd in (False, True):
        trial = trial_of(call, chosen, {}, rng, odd=odd)
        (found,) = execute(trial, cache, threads=2)
        (expected,) = interpret(trial, precise=True)
        assert_close(found, expected, "product", length=trial.length, scale=4.0)


def test_double_precision(cache: Path) -> None:
    weights = weights_of(18, 20)
    model = model_of(nodes_of(), (2, 18, 9, 5), weights, TensorProto.DOUBLE)
    assert gated(model)
    x = np.random.default_rng().standard_normal((2, 18, 9, 5))
    found = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))({"x": x})["y"]
    np.testing.assert_allclose(found, expected_of(weights, x, 1), rtol=1e-12, atol=1e-12)


def test_the_same_bits_on_any_threads(cache: Path) -> None:
    model = model_of(nodes_of(), (1, 24, 19, 11), weights_of(24, 40))
    x = np.random.default_rng().standard_normal((1, 24, 19, 11)).astype(np.float32)
    one, *others = (
        whet.compile(model, options=whet.Options(threads=t, cache_dir=cache))({"x": x})["y"]
        for t in (1, 2, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other, one)


def test_what_is_not_a_number_stays_with_its_image(cache: Path) -> None:
    model = model_of(nodes_of(), (2, 24, 9, 5), weights_of(24, 40))
    x = np.ones((2, 24, 9, 5), np.float32)
    x[1, 3, 4, 2] = np.nan
    y = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))({"x": x})["y"]
    assert np.isnan(y[1]).all()
    assert not np.isnan(y[0]).any()


def test_fewer_launches_and_the_switch() -> None:
    model = model_of(nodes_of(), (1, 24, 19, 11), weights_of(24, 40))

    def launches(**options: Any) -> int:
        return len(plan(model, options=whet.Options(**options)).program.launches)

    assert launches() == launches(passes={"gate_products": False}) - 1
    assert launches(passes={"gate_products": 0}) == launches() + 1
    assert not gated(model, level=2, rewrites={})


def test_two_at_a_time_are_counted() -> None:
    first, second = nodes_of(), nodes_of()
    for node in second:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name not in weights_of(1, 1):
                    names[k] = "y" if name == "x" else f"{name}2"
    second[-1].output[0] = "z_out"
    model = model_of([*first, *second], (1, 24, 19, 11), weights_of(24, 24))
    assert len(gated(model)) == 2
    assert len(gated(model, rewrites={"gate_products": 1})) == 1


# -- near misses -----------------------------------------------------------------------------------


def _also_given_out(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes.append(helper.make_node("Identity", ["gated"], ["gated_out"]))


def _three_by_three(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    weights["w"] = np.tile(weights["w"], (1, 1, 3, 3))
    nodes[7].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))


def _gate_of_pixels(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes[1] = helper.make_node("Tanh", ["x"], ["mean"])


def _added(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes[6].op_type = "Add"


def _bounded(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    nodes[7].input[0] = "bounded"
    nodes.insert(7, helper.make_node("Tanh", ["gated"], ["bounded"]))


def _many_results(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    weights["w"] = np.tile(weights["w"], (10, 1, 1, 1))
    weights["b"] = np.tile(weights["b"], 10)


def _groups(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    weights["w"] = weights["w"][:, :12]
    nodes[7].attribute.append(helper.make_attribute("group", 2))


Change = Callable[[list[onnx.NodeProto], dict[str, Array]], None]


@pytest.mark.parametrize(
    "change",
    [
        _also_given_out,
        _three_by_three,
        _gate_of_pixels,
        _added,
        _bounded,
        _many_results,
        _groups,
    ],
)
def test_others_are_multiplied_before(change: Change) -> None:
    weights = weights_of(24, 40)
    assert gated(model_of(nodes_of(), (1, 24, 19, 11), weights))
    nodes = nodes_of()
    change(nodes, weights)
    assert not gated(model_of(nodes, (1, 24, 19, 11), weights))


@pytest.mark.parametrize(
    ("pixels", "dtype"), [((3, 3), TensorProto.FLOAT), ((19, 11), TensorProto.FLOAT16)]
)
def test_few_pixels_and_small_floats_are_not(pixels: tuple[int, int], dtype: int) -> None:
    assert not gated(model_of(nodes_of(), (1, 24, *pixels), weights_of(24, 40), dtype))


def test_fewer_results_with_fewer_registers() -> None:
    model = model_of(nodes_of(), (1, 24, 19, 11), weights_of(24, 100))
    assert gated(model)
    assert not gated(model, AVX2)

"""Weights alone in 4 and 8 bits, and the 16-bit floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import InputError, OptionError, UnsupportedError
from whet.quantize.api import Goal
from whet.quantize.blocks import block_grid, dequantize_blocks, quantize_blocks
from whet.quantize.convert import convert_floats, convert_weights
from whet.quantize.static import Request
from whet.quantize.weights import WeightConfig
from whet.quantize.write_weights import packed
from whet.tests.quantized_models import build, norm_net

Array = np.ndarray[Any, Any]


def correlated(rng: np.random.Generator, rows: int, width: int) -> Array:
    """Return activations whose channels depend on each other and differ in size."""
    mixed = rng.standard_normal((rows, width // 3)) @ rng.standard_normal((width // 3, width))
    sizes = np.exp(rng.standard_normal(width))
    return np.asarray((mixed + 0.1 * rng.standard_normal((rows, width))) * sizes, np.float32)


def dense(rng: np.random.Generator, width: int = 40) -> onnx.ModelProto:
    weights = {"w": rng.standard_normal((width, 24)), "b": rng.standard_normal(24),
               "v": rng.standard_normal((7, 24))}  # fmt: skip
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        onnx.helper.make_node("Gemm", ["r", "v"], ["y"], name="second", transB=1),
    ]
    return build(nodes, weights, ["n", width], ["n", 7])


def _methods(*names: str) -> tuple[Any, ...]:
    return names


def run(model: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(whet.compile(model)({"x": x})["y"])


def error(found: Array, right: Array) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_cover_their_weights(bits: int, symmetric: bool) -> None:
    matrix = np.random.default_rng(bits).standard_normal((37, 5)).astype(np.float32)
    matrix[16:32, 2] = 0
    grid = block_grid(matrix, bits, 16, symmetric=symmetric)
    assert grid.scale.shape == (3, 5)
    back = dequantize_blocks(quantize_blocks(matrix, grid), grid)
    assert (np.abs(back - matrix) <= 1.01 * grid.spread(grid.scale, 37)).all()
    assert not back[16:32, 2].any()


def test_numbers_are_packed_low_half_first() -> None:
    matrix = np.arange(-8, 24, dtype=np.float32).reshape(32, 1) % 7
    grid = block_grid(matrix, 4, 16, symmetric=False)
    numbers = quantize_blocks(matrix, grid)
    bytes_ = packed(numbers, grid)
    assert bytes_.shape == (1, 2, 8)
    assert bytes_[0, 0, 0] == (numbers[0, 0] + 8) | ((numbers[1, 0] + 8) << 4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_both_forms_mean_the_same(bits: Any, symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    model, x = dense(rng), rng.standard_normal((5, 40)).astype(np.float32)
    found = []
    for form in _methods("dequantize", "matmulnbits"):
        config = WeightConfig(bits=bits, block=16, symmetric=symmetric, form=form)
        made = convert_weights(Request(model, x), config)
        assert made.report.converted == 2
        assert made.report.bytes_after < made.report.bytes_before / (2 if bits == 8 else 3)
        found.append(run(made.model, x))
    assert np.allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert error(found[0], run(model, x)) < (0.15 if bits == 4 else 0.01)


@pytest.mark.peer
def test_onnx_runtime_reads_both_forms() -> None:
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(2)
    model, x = dense(rng, 64), rng.standard_normal((5, 64)).astype(np.float32)
    for form in _methods("dequantize", "matmulnbits"):
        made = convert_weights(Request(model, x), WeightConfig(form=form))
        session = ort.InferenceSession(made.model.SerializeToString())
        (theirs,) = session.run(None, {"x": x})
        assert np.allclose(run(made.model, x), theirs, rtol=1e-3, atol=1e-3)


def test_gptq_lowers_the_error_of_the_result() -> None:
    rng = np.random.default_rng(3)
    model = dense(rng)
    x, fresh = np.split(correlated(rng, 600, 40), [400])
    right, errors = run(model, fresh), {}
    for method in _methods("nearest", "gptq"):
        config = WeightConfig(method=method)
        errors[method] = error(run(convert_weights(Request(model, x), config).model, fresh), right)
    assert errors["gptq"] < 0.7 * errors["nearest"]


def test_awq_lowers_the_error_of_the_result() -> None:
    # the channel with the large activations has the smallest weights: its steps are too coarse
    model = norm_net(np.random.default_rng(4))
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3] *= 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    x = np.random.default_rng(5).standard_normal((64, 4, 16)).astype(np.float32)
    right, errors = run(model, x), {}
    for method in _methods("nearest", "awq"):
        config = WeightConfig(method=method, block=16, skip=("down",))
        errors[method] = error(run(convert_weights(Request(model, x), config).model, x), right)
    assert errors["awq"] < 0.6 * errors["nearest"]


def test_what_cannot_be() -> None:
    with pytest.raises(OptionError, match="block is 24"):
        WeightConfig(block=24)
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(UnsupportedError, match="no matrix"):
        convert_weights(Request(build(nodes, {}, ["n", 2], ["n", 2]), []), WeightConfig())


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_small_floats_keep_what_does_not_fit(kind: Any) -> None:
    rng = np.random.default_rng(6)
    weights = {"w": rng.standard_normal((8, 8)), "big": np.array(2e4), "small": np.array(1e-5),
               "v": rng.standard_normal((8, 3))}  # fmt: skip
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Mul", ["a", "big"], ["b"], name="grow"),
        node("Relu", ["b"], ["r"]),
        node("Mul", ["r", "small"], ["c"], name="shrink"),
        node("MatMul", ["c", "v"], ["y"], name="last"),
    ]
    model = build(nodes, weights, ["n", 8], ["n", 3])
    x = rng.standard_normal((16, 8)).astype(np.float32)
    made = convert_floats(Request(model, x), kind, Goal())
    assert made.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    found = run(made.model, x)
    assert found.dtype == np.float32
    assert error(found, run(model, x)) < (0.005 if kind == "float16" else 0.03)
    assert made.report.bytes_after < 0.9 * made.report.bytes_before
    assert bool(made.report.floats) == (kind == "float16")


def test_small_floats_need_no_data() -> None:
    rng = np.random.default_rng(10)
    weights = {"w": rng.standard_normal((8, 8)), "big": np.array(1e5), "v": np.ones((8, 3))}
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Max", ["a", "big"], ["b"], name="grow"),
        node("MatMul", ["b", "v"], ["y"], name="last"),
    ]
    model = build(nodes, weights, ["n", 8], ["n", 3])
    wide = convert_floats(Request(model), "bfloat16", Goal())
    assert wide.report.floats == {}
    x = rng.standard_normal((16, 8)).astype(np.float32)
    assert error(run(wide.model, x), run(model, x)) < 0.03
    half = convert_floats(Request(model), "float16", Goal())
    assert half.report.floats == {"grow": "big is too large"}
    assert half.report.ranges_checked is False
    assert convert_floats(Request(model, x), "float16", Goal()).report.ranges_checked is True
    with pytest.raises(InputError, match="no calibration data"):
        convert_floats(Request(model), "float16", Goal(max_drop="1%"))
    held = convert_floats(Request(model), "bfloat16", Goal("1%", "cosine", evaluation=x))
    assert held.report.target is not None


def test_small_floats_do_not_divide_by_what_became_nothing() -> None:
    rng = np.random.default_rng(11)
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("ReduceL2", ["a"], ["l"], axes=[1], name="length"),
        node("Max", ["l", "least"], ["m"], name="bound"),
        node("Identity", ["m"], ["i"]),
        node("Div", ["a", "i"], ["y"], name="divide"),
    ]
    weights = {"w": rng.standard_normal((8, 8)), "least": np.array(1e-12)}
    model = build(nodes, weights, ["n", 8], ["n", 8])
    x = rng.standard_normal((4, 8)).astype(np.float32)
    x[1] = 0
    made = convert_floats(Request(model, x), "float16", Goal())
    assert set(made.report.floats) == {"bound", "divide"}
    assert made.report.floats["bound"] == "least may become 0"
    found = run(made.model, x)
    assert np.isfinite(found).all()
    assert error(found, run(model, x)) < 0.005


def test_small_floats_keep_a_target() -> None:
    model = norm_net(np.random.default_rng(7))
    x = np.random.default_rng(8).standard_normal((8, 4, 16)).astype(np.float32)
    free = convert_floats(Request(model, x), "bfloat16", Goal())
    held = convert_floats(Request(model, x), "bfloat16", Goal(2e-6, "cosine"))
    assert held.report.converted < free.report.converted
    assert held.report.target is not None
    assert held.report.target.drop <= 2e-6


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(9)
    onnx.save(dense(rng), "m.onnx")
    np.save("x.npy", rng.standard_normal((8, 40)).astype(np.float32))
    assert run_command("quantize m.onnx --mode weights --skip first".split()) == exits.OK
    kinds = {t.name: t.data_type for t in onnx.load("m.int4.onnx").graph.initializer}
    assert kinds["v_q"] == onnx.TensorProto.INT4
    assert kinds["w"] == onnx.TensorProto.FLOAT
    line = "quantize m.onnx --mode float16 --calibration x.npy --report r.html"
    assert run_command(line.split()) == exits.OK
    assert "weights smaller by" in Path("r.html").read_text()
    assert run_command("quantize m.onnx --mode weights --method gptq -o n.onnx".split()) == 2
    assert not Path("n.onnx").exists()

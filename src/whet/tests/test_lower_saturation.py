"""What is done with sums of 8-bit integers: no detours, and bytes of four vectors at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.kinds.tile_epilogue import first_sum
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import host_target, resolve_target
from whet.kernel.expr import Call, Const, Expr, Var, walk
from whet.kernel.spec import Contraction
from whet.kernel.text import expr_text
from whet.lower.saturation import Range, bounds, shortened
from whet.ops.build import binary, cast, const
from whet.ops.quantize import quantised
from whet.target import Target
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of

Array = np.ndarray[Any, np.dtype[Any]]
SUM = Var("acc", "int32")
CASCADE = "x86_64-linux-gnu:cascadelake"


def steps(total: Expr, scale: float, zero: int, dtype: str = "uint8") -> Expr:
    """Return a sum in steps of a result, as ``QLinearConv`` gives them."""
    scaled = binary("mul", cast(total, "float32"), scale)
    return quantised(scaled, const(zero, dtype), dtype, saturate=True)


def back(value: Expr, scale: float, zero: int) -> Expr:
    """Return what ``DequantizeLinear`` makes of steps."""
    moved = binary("sub", cast(value, "int32"), cast(const(zero, value.dtype), "int32"))
    return binary("mul", cast(moved, "float32"), scale)


def test_saturation_replaces_both_clamps() -> None:
    biased = binary("add", SUM, 7)
    for zero, added in ((0, ""), (3, " + 3")):
        text = expr_text(shortened(steps(biased, 0.25, zero)))
        inner = f"nearest((cast.float32((acc + 7)) * 0.25)){added}"
        assert text == f"saturate({f'({inner})' if added else inner})"


def test_a_byte_that_becomes_wide_again_is_never_made() -> None:
    again = shortened(back(steps(SUM, 0.25, 127), 0.5, 127))
    assert not [e for e in walk(again) if isinstance(e, Call) and e.dtype == "uint8"]
    ends = bounds(again)
    assert ends is not None and ends.within(-63.51, 64.01)


def test_what_may_not_fit_keeps_its_clamps() -> None:
    large = steps(SUM, 1.0, 0)
    assert shortened(large) == large, "a sum of 2**31 is no 32-bit integer any more"
    unknown = quantised(binary("mul", Var("x", "float32"), 0.5), None, "uint8", saturate=True)
    assert shortened(unknown) == unknown, "it may be NaN"
    tight = cast(Call("nearest", (_clamped(0.1, 0.0, 100.0),), "int32"), "uint8")
    assert "100" in expr_text(shortened(tight)), "100 steps are not all that fit"


def _clamped(scale: float, low: float, high: float) -> Expr:
    value = binary("mul", cast(SUM, "float32"), scale)
    for test, bound in (("gt", low), ("lt", high)):
        limit = Const(bound, "float32")
        value = Call("select", (Call(test, (value, limit), "bool"), value, limit), "float32")
    return value


def test_a_clamped_step_is_rounded_first_where_sums_are_small() -> None:
    step = cast(Call("nearest", (_clamped(0.25, -126.0, 129.0),), "int32"), "float32")
    few = Range(-1000.0, 1000.0)
    text = expr_text(shortened(step, few))
    assert "round_product" in text and "nearest" not in text
    assert shortened(step) == step, "nobody says how large the sum is"
    tight = cast(Call("nearest", (_clamped(0.25, -126.5, 129.0),), "int32"), "float32")
    assert shortened(tight, few) == tight, "-126.5 is a step only after rounding"
    moved = expr_text(shortened(steps(SUM, 0.25, 3), few))
    assert moved == "saturate((round_product(cast.float32(acc), 0.25) + 3))"


def test_the_zero_point_of_a_term_is_added_to_the_other() -> None:
    few = Range(-1000.0, 1000.0)
    byte = Var("x", "uint8")
    total = binary("add", back(steps(SUM, 0.25, 127), 0.5, 127), back(byte, 0.75, 40))
    text = expr_text(shortened(quantised(total, const(0, "uint8"), "uint8", saturate=True), few))
    assert "- 40" not in text and "fma(cast.float32(cast.int32(x)), 0.75, fma(" in text
    assert ", 0.5, -30)" in text


# -- kernels -------------------------------------------------------------------------------------


def residual_model(rows: int, cols: int, dtype: str) -> onnx.ModelProto:
    """Return a quantised product with a bias, and a quantised sum with another input."""
    rng = np.random.default_rng(rows * 100 + cols)
    kind = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}[dtype]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    constants: dict[str, Array] = {
        "w": rng.integers(-128, 128, (24, cols)).astype(np.int8),
        "b": rng.integers(-(2**12), 2**12, cols).astype(np.int32),
        "sw": rng.uniform(0.0005, 0.02, cols).astype(np.float32),
        "zw": np.zeros(cols, np.int8),
        "one": np.array(1, np.float32), "sx": np.array(0.02, np.float32),
        "sc": np.array(0.3, np.float32), "zc": np.array(low + 120, dtype),
        "sr": np.array(0.17, np.float32), "zr": np.array(high - 9, dtype),
        "sy": np.array(0.23, np.float32), "zy": np.array(low + 11, dtype),
        "zx": np.array(0, np.uint8),
    }  # fmt: skip
    constants["sb"] = (constants["sx"] * constants["sw"]).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=1),
        helper.make_node("DequantizeLinear", ["b", "sb"], ["bf"], axis=0),
        helper.make_node("Gemm", ["xf", "wf", "bf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "sc", "zc"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "sc", "zc"], ["cf"]),
        helper.make_node("DequantizeLinear", ["r", "sr", "zr"], ["rf"]),
        helper.make_node("Add", ["cf", "rf"], ["s"]),
        helper.make_node("QuantizeLinear", ["s", "sy", "zy"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, 24]),
        helper.make_tensor_value_info("r", kind, [rows, cols]),
    ]
    output = helper.make_tensor_value_info("y", kind, [rows, cols])
    given = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "residual", inputs, [output], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def targets_here() -> list[Target]:
    """Return this machine, and with half of its vectors and without its dot product."""
    host = host_target()
    if not host.triple.startswith("x86_64") or host.vector_bytes < 64:
        return [host, replace(host, dot="")]
    return [host, replace(host, vector_bytes=32, registers=16, dot="pairs"), replace(host, dot="")]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("rows", "cols"), [(1, 16), (3, 67), (13, 32), (7, 144)])
def test_stored_bytes_are_those_of_the_interpreter(
    rows: int, cols: int, dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(31)
    for target in targets_here():
        calls, _ = kernels_of(residual_model(rows, cols, dtype), target=target)
        (call,) = [c for c in calls if isinstance(c.kernel, Contraction)]
        assert isinstance(call.kernel, Contraction) and first_sum(call.kernel)[0] is not None
        trial = trial_of(call, target, {}, rng, odd=False)
        for buffer in trial.buffers:
            if buffer.dtype == np.uint8:
                buffer[:: max(1, buffer.size // 5)] = 255
        (found,), (expected,) = execute(trial, tmp_path), interpret(trial, precise=True)
        far = np.abs(found.astype(np.int64) - expected.astype(np.int64))
        # In single precision a value next to a half may fall to the other side.
        assert far.max(initial=0) <= 1 and np.count_nonzero(far) <= far.size // 500
        assert {np.iinfo(dtype).min, np.iinfo(dtype).max} & set(found.tolist()), "none saturates"


def test_four_vectors_are_narrowed_together() -> None:
    target = resolve_target(CASCADE)
    calls, _ = kernels_of(residual_model(13, 32, "uint8"), target=target)
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    assembly = assembly_of(kernel_text("k", kernel, (), target), target)
    rows = 13
    assert "vpdpbusd" in assembly
    assert assembly.count("vpackssdw") == 2 * (2 * rows // 4)
    assert assembly.count("vpmovusdb") + assembly.count("vpmovdb") <= 2 * rows % 4


def test_halves_become_the_even_step() -> None:
    rng = np.random.default_rng(53)
    weights = rng.integers(-1, 2, (24, 37)).astype(np.int8)
    x = rng.integers(0, 64, (29, 24)).astype(np.uint8)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "half", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zw"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "one", "point"], ["y"]),
    ]
    constants: dict[str, Array] = {
        "w": weights, "half": np.array(0.5, np.float32), "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8), "zw": np.array(0, np.int8), "point": np.array(119, np.uint8),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [29, 37])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    exact = np.rint((x.astype(np.int64) @ weights.astype(np.int64)) * 0.5) + 119
    found = whet.compile(model, options=whet.Options(threads=1))({"x": x})["y"]
    assert np.array_equal(found, np.clip(exact, 0, 255).astype(np.uint8))


# -- dynamic quantisation ------------------------------------------------------------------------


def test_constant_weights_are_summed_before_the_run() -> None:
    rng = np.random.default_rng(33)
    weights = rng.integers(-128, 128, (96, 40)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "dynamic", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 40])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    calls, _ = kernels_of(model)
    sums = [c for c in calls if "MatMulInteger" in c.ops and not isinstance(c.kernel, Contraction)]
    assert not sums, "the columns of the weights are summed in every run"
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    assert first_sum(kernel)[0] is not None, "the zero point is no part of the epilogue"
    x = rng.normal(1, 3, (2, 5, 96)).astype(np.float32)
    x[0, 0, 0], x[1, 4, 95] = -40, 50
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    zero = np.rint(np.clip(-np.float32(low) / scale, 0, 255))
    steps = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64) - int(zero)
    exact = (steps @ weights.astype(np.int64)).astype(np.float32) * scale
    found = whet.compile(model, options=whet.Options(threads=2))({"x": x})["y"]
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("zero", [0, 120])
def test_scales_of_channels_are_one_constant(zero: int) -> None:
    """A QLinearMatMul ends like the product between the QuantizeLinear that it stands for."""
    rng = np.random.default_rng(zero)
    constants: dict[str, Array] = {
        "w": rng.integers(-128, 128, (24, 32)).astype(np.int8),
        "sw": rng.uniform(0.0005, 0.02, 32).astype(np.float32),
        "zw": np.zeros(32, np.int8),
        "sx": np.array(0.02, np.float32), "zx": np.array(3, np.uint8),
        "sy": np.array(0.23, np.float32), "zy": np.array(zero, np.uint8),
    }  # fmt: skip
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [5, 24])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [5, 32])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    calls, _ = kernels_of(model, every=True)
    (kernel,) = (c.kernel for c in calls if isinstance(c.kernel, Contraction))
    text = expr_text(kernel.stores[0].value)
    assert text.startswith("saturate(") and "select" not in text and "/" not in text
    x = rng.integers(0, 256, (5, 24)).astype(np.uint8)
    sums = (x.astype(np.int64) - 3) @ constants["w"].astype(np.int64)
    factor = constants["sx"] * constants["sw"] / constants["sy"]
    expected = np.clip(np.rint(sums.astype(np.float32) * factor) + zero, 0, 255)
    assert np.array_equal(whet.compile(model)({"x": x})["y"], expected)

"""Products of 8-bit integers against exact sums: sizes, signs, zero points, padding, targets."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import host_target, resolve_target
from whet.kernel.spec import Contraction
from whet.program.records import TargetInfo
from whet.runtime.cpu import runs_here
from whet.target import Target
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.test_conform_assembly import inner_loops
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]
TARGETS = (
    "host", "x86_64-unknown-linux-gnu:haswell", "x86_64-unknown-linux-gnu:skylake-avx512"
)  # fmt: skip
SIZES = ((33, 64, 31), (1, 1, 1), (7, 13, 17), (5, 3, 97), (2, 131, 48))
SIGNS = list(itertools.product(("int8", "uint8"), repeat=2))


def run(
    cache: Path,
    node: onnx.NodeProto,
    arrays: dict[str, Array],
    *,
    fixed: tuple[str, ...] = (),
    dims: dict[str, tuple[int | str, ...]] | None = None,
    target: str = "host",
) -> Array:
    """Return output ``y`` of a node, some of whose inputs are constants."""
    chosen = resolve_target(target)
    if not runs_here(TargetInfo(chosen.triple, chosen.cpu, chosen.required)):
        pytest.skip(f"this CPU does not run code for {target}")
    free = {n: a for n, a in arrays.items() if n not in fixed}
    inputs = [
        helper.make_tensor_value_info(n, CODES[a.dtype.name], (dims or {}).get(n, a.shape))
        for n, a in free.items()
    ]
    weights = [numpy_helper.from_array(np.asarray(arrays[n]), n) for n in fixed]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([node], "integers", inputs, outputs, weights)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    options = whet.Options(cache_dir=str(cache), threads=2, target=target)
    found: dict[str, Array] = whet.compile(model, options=options)(free)
    return found["y"]


def draw(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    """Return integers over the whole range of a type, both ends among them."""
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max + 1, shape)
    ends = rng.choice([limits.min, limits.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, values).astype(dtype)


def product(a: Array, b: Array, za: Array | int, zb: Array | int) -> Array:
    found: Array = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb)
    return found


@pytest.mark.parametrize(("first", "second"), SIGNS)
@pytest.mark.parametrize("target", TARGETS)
def test_matmul_of_all_signs_and_sizes(
    first: str, second: str, target: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(21)
    for k, (rows, depth, cols) in enumerate(SIZES):
        a, b = draw(rng, first, rows, depth), draw(rng, second, depth, cols)
        za, zb = draw(rng, first), draw(rng, second)
        arrays = {"a": a, "b": b, "za": za, "zb": zb}
        node = helper.make_node("MatMulInteger", list(arrays), ["y"])
        expected = product(a, b, int(za), int(zb))
        fixed = (("b", "za", "zb"), ("b",), ())[k % 3]
        found = run(tmp_path, node, arrays, fixed=fixed, target=target)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        if k:
            continue
        plain = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
        found = run(tmp_path, plain, {"a": a, "b": b}, fixed=("b",), target=target)
        np.testing.assert_array_equal(found, product(a, b, 0, 0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("first", "second"), SIGNS)
def test_nothing_saturates(first: str, second: str, target: str, tmp_path: Path) -> None:
    ends = [np.full((3, 1023), end, first) for end in (np.iinfo(first).min, np.iinfo(first).max)]
    weights = [np.full((1023, 19), end, second) for end in (np.iinfo(second).min, 127)]
    for a, b in itertools.product(ends, weights):
        node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
        found = run(tmp_path, node, {"a": a, "b": b}, fixed=("b",), target=target)
        np.testing.assert_array_equal(found, product(a, b, 0, 0))


def test_matmul_with_batches_and_run_time_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(22)
    for rows, depth, cols in ((3, 5, 7), (1, 8, 1), (0, 4, 3), (2, 19, 33)):
        a, b = draw(rng, "uint8", 2, 3, rows, depth), draw(rng, "int8", 3, depth, cols)
        za, zb = np.array(131, np.uint8), np.array(-7, np.int8)
        dims: dict[str, tuple[int | str, ...]] = {
            "a": ("n", 3, "rows", "depth"), "b": (3, "depth", "cols"), "za": (), "zb": ()
        }  # fmt: skip
        arrays = {"a": a, "b": b, "za": za, "zb": zb}
        node = helper.make_node("MatMulInteger", list(arrays), ["y"])
        found = run(tmp_path, node, arrays, dims=dims)
        np.testing.assert_array_equal(found, product(a, b, 131, -7))


def test_zero_points_of_rows_and_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(23)
    a, b = draw(rng, "uint8", 9, 21), draw(rng, "int8", 21, 13)
    za, zb = draw(rng, "uint8", 9), draw(rng, "int8", 13)
    arrays = {"a": a, "b": b, "za": za, "zb": zb}
    node = helper.make_node("MatMulInteger", list(arrays), ["y"])
    expected = product(a, b, za[:, None], zb)
    for fixed in (("b", "za", "zb"), ()):
        np.testing.assert_array_equal(run(tmp_path, node, arrays, fixed=fixed), expected)


def test_an_empty_depth_gives_zeros(tmp_path: Path) -> None:
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    arrays = {"a": np.zeros((6, 0), np.int8), "b": np.zeros((0, 4), np.int8)}
    np.testing.assert_array_equal(run(tmp_path, node, arrays), np.zeros((6, 4)))


def test_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(24)
    a, b = draw(rng, "uint8", 21), draw(rng, "uint8", 21, 5)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    np.testing.assert_array_equal(run(tmp_path, node, {"a": a, "b": b}), product(a, b, 0, 0))


# -- convolution -----------------------------------------------------------------------------------


def convolve(x: Array, w: Array, attributes: dict[str, Any]) -> Array:
    """Return the convolution of integers, with zeros around them, one tap after another."""
    strides = attributes.get("strides", (1, 1))
    dilations = attributes.get("dilations", (1, 1))
    pads, group = attributes.get("pads", (0, 0, 0, 0)), attributes.get("group", 1)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    kernel = w.shape[2:]
    sizes = [
        (padded.shape[2 + k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1
        for k in range(2)
    ]
    total = np.zeros((x.shape[0], w.shape[0], *sizes), np.int64)
    share_in, share_out = x.shape[1] // group, w.shape[0] // group
    for g, i, j in itertools.product(range(group), range(kernel[0]), range(kernel[1])):
        top, left = i * dilations[0], j * dilations[1]
        part = padded[:, g * share_in : (g + 1) * share_in]
        part = part[:, :, top : top + sizes[0] * strides[0] : strides[0]]
        part = part[:, :, :, left : left + sizes[1] * strides[1] : strides[1]]
        some = w[g * share_out : (g + 1) * share_out, :, i, j]
        total[:, g * share_out : (g + 1) * share_out] += np.einsum("nchw,mc->nmhw", part, some)
    return total


CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 9, 8), (5, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 16, 7, 7), (33, 16, 1, 1), {}),
    ((1, 19, 11, 13), (8, 19, 3, 3), {"pads": (1, 0, 2, 1), "strides": (2, 2)}),
    ((2, 8, 9, 9), (6, 4, 3, 2), {"group": 2, "pads": (1, 1, 1, 1)}),
    ((1, 12, 8, 8), (12, 1, 3, 3), {"group": 12, "pads": (1, 1, 1, 1)}),
    ((1, 5, 12, 12), (7, 5, 3, 3), {"dilations": (2, 2), "pads": (2, 2, 2, 2)}),
    ((0, 4, 5, 5), (3, 4, 3, 3), {}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "attributes"), CONVOLUTIONS)
@pytest.mark.parametrize(("first", "second"), SIGNS)
def test_convolution(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    attributes: dict[str, Any],
    first: str,
    second: str,
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(25)
    x, w = draw(rng, first, *x_shape), draw(rng, second, *w_shape)
    zx, zw = draw(rng, first), draw(rng, second)
    arrays = {"x": x, "w": w, "zx": zx, "zw": zw}
    node = helper.make_node("ConvInteger", list(arrays), ["y"], **attributes)
    expected = convolve(x.astype(np.int64) - int(zx), w.astype(np.int64) - int(zw), attributes)
    fixed = (("w", "zx", "zw"), ("w",), (), ("w", "zw"))[SIGNS.index((first, second))]
    np.testing.assert_array_equal(run(tmp_path, node, arrays, fixed=fixed), expected)
    arrays["zx"], arrays["zw"] = np.zeros((), first), np.zeros((), second)
    expected = convolve(x.astype(np.int64), w.astype(np.int64), attributes)
    found = run(tmp_path, node, arrays, fixed=("w", "zx", "zw"), target=TARGETS[1])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("first", "second"), SIGNS)
@pytest.mark.parametrize("result", ["int8", "uint8"])
def test_qlinear_convolution(first: str, second: str, result: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(26)
    for k, (x_shape, w_shape, attributes) in enumerate(CONVOLUTIONS):
        x, w = draw(rng, first, *x_shape), draw(rng, second, *w_shape)
        filters, zw = w_shape[0], draw(rng, second, w_shape[0])
        zw[:] = zw if second == "uint8" else 0
        scales = rng.uniform(0.001, 0.02, filters).astype(np.float32)
        arrays = {
            "x": x, "sx": np.array(0.02, np.float32), "zx": draw(rng, first), "w": w, "sw": scales,
            "zw": zw, "sy": np.array(0.31, np.float32), "zy": draw(rng, result),
            "b": rng.integers(-(2**14), 2**14, filters).astype(np.int32),
        }  # fmt: skip
        node = helper.make_node("QLinearConv", list(arrays), ["y"], **attributes)
        weights = w.astype(np.int64) - zw.astype(np.int64)[:, None, None, None]
        total = convolve(x.astype(np.int64) - int(arrays["zx"]), weights, attributes)
        total += arrays["b"].astype(np.int64)[:, None, None]
        factor = arrays["sx"] * scales / arrays["sy"]
        scaled = total.astype(np.float32) * factor.astype(np.float32)[:, None, None]
        exact = np.rint(scaled).astype(np.float64) + int(arrays["zy"])
        limits = np.iinfo(result)
        expected = np.clip(exact, limits.min, limits.max).astype(result)
        fixed = ("w",) if k % 2 else tuple(n for n in arrays if n != "x")
        found = run(tmp_path, node, arrays, fixed=fixed)
        assert found.dtype == result
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("first", "second"), SIGNS)
def test_qlinear_matmul(first: str, second: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(27)
    a, b = draw(rng, first, 2, 7, 37), draw(rng, second, 37, 29)
    for cols in ((), (29,)):
        arrays = {
            "a": a, "sa": np.array(0.013, np.float32), "za": draw(rng, first), "b": b,
            "sb": rng.uniform(0.001, 0.02, cols).astype(np.float32), "zb": draw(rng, second, *cols),
            "sy": np.array(0.11, np.float32), "zy": draw(rng, "uint8"),
        }  # fmt: skip
        node = helper.make_node("QLinearMatMul", list(arrays), ["y"])
        total = product(a, b, int(arrays["za"]), arrays["zb"].astype(np.int64))
        factor = (arrays["sa"] * arrays["sb"] / arrays["sy"]).astype(np.float32)
        scaled = np.rint(total.astype(np.float32) * factor).astype(np.float64)
        expected = np.clip(scaled + int(arrays["zy"]), 0, 255)
        for fixed in (tuple(n for n in arrays if n != "a"), ()):
            found = run(tmp_path, node, arrays, fixed=fixed)
            np.testing.assert_array_equal(found, expected.astype(np.uint8))


# -- kernels ---------------------------------------------------------------------------------------


def integer_model(first: str, weights: Array | None) -> onnx.ModelProto:
    """Return a product of a run-time number of rows, with constant or given weights."""
    inputs = [helper.make_tensor_value_info("a", CODES[first], ["n", 41])]
    names, constants = ["a", "b"], []
    if weights is None:
        inputs.append(helper.make_tensor_value_info("b", CODES["int8"], [41, 37]))
    else:
        constants = [numpy_helper.from_array(weights, "b")]
    node = helper.make_node("MatMulInteger", names, ["y"])
    graph = helper.make_graph([node], "kernel", inputs, [onnx.ValueInfoProto(name="y")], constants)
    return onnx.shape_inference.infer_shapes(helper.make_model(graph))


def targets_here() -> list[Target]:
    """Return this machine with each way of multiplying that it has."""
    host = host_target()
    if not host.triple.startswith("x86_64"):
        return [host, replace(host, dot="")]
    found = [host, replace(host, dot="pairs"), replace(host, dot="")]
    if "avxvnni" in host.required:
        found.append(replace(host, vector_bytes=32, registers=16, dot="vnni"))
    return found


@pytest.mark.parametrize("first", ["int8", "uint8"])
@pytest.mark.parametrize("fixed", [True, False])
def test_kernels_agree_with_the_interpreter(first: str, fixed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(28)
    weights = draw(rng, "int8", 41, 37) if fixed else None
    for target in targets_here():
        calls, _ = kernels_of(integer_model(first, weights), target=target)
        assert any(isinstance(c.kernel, Contraction) and c.kernel.dot for c in calls)
        for call in calls:
            trial = trial_of(call, target, {"n": 11}, rng, odd=False)
            expected = interpret(trial, precise=True)
            for found, wanted in zip(execute(trial, tmp_path, threads=2), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_one_instruction_multiplies_where_there_is_one() -> None:
    host = host_target()
    calls, _ = kernels_of(integer_model("uint8", np.ones((41, 37), np.int8)), target=host)
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    text = kernel_text("k", kernel, ("n",), host)
    assert ("vpdpbusd" in text) == (host.dot == "vnni")


@pytest.mark.parametrize("name", TARGETS)
def test_sums_of_integers_stay_in_registers(name: str) -> None:
    inputs = [helper.make_tensor_value_info("a", CODES["uint8"], [64, 768])]
    weights = [numpy_helper.from_array(np.ones((768, 3072), np.int8), "b")]
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "wide", inputs, [onnx.ValueInfoProto(name="y")], weights)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    calls, target = kernels_of(model, target=name)
    if target.dot not in ("vnni", "pairs"):
        pytest.skip("looks for instructions of x86-64")
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    assembly = assembly_of(kernel_text("k", kernel, (), target), target)
    word = "vpdpbusd" if target.dot == "vnni" else "vpmaddwd"
    loops = [loop for loop in inner_loops(assembly) if any(word in line for line in loop)]
    assert loops
    moved = re.compile(r"vmov\w+\s+%[xyz]mm\d+, -?\d*\(%rsp\)")
    assert not [line for loop in loops for line in loop if moved.search(line)]

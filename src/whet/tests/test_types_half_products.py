"""Products of 16-bit floats: pairs that share a lane, and operands kept as float32."""

from __future__ import annotations

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
from whet.codegen.objects.targets import host_target
from whet.dtypes import numpy_dtype
from whet.kernel.spec import PAIR, Contraction, Winograd
from whet.target import Target
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]
STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""A unit in the last place, relative."""


def draw(dtype: str, *shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(numpy_dtype(dtype))


def model_of(
    nodes: list[onnx.NodeProto],
    dtype: str,
    inputs: dict[str, tuple[int | str, ...]],
    weights: dict[str, Array],
) -> onnx.ModelProto:
    """Return a model whose result is ``y``."""
    infos = [helper.make_tensor_value_info(n, CODES[dtype], s) for n, s in inputs.items()]
    out = helper.make_tensor_value_info("y", CODES[dtype], None)
    constants = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "half", infos, [out], constants))


def run(model: onnx.ModelProto, arrays: dict[str, Array], cache: Path) -> Array:
    options = whet.Options(cache_dir=str(cache), threads=2)
    return whet.compile(model, options=options)(arrays)["y"].astype(np.float64)


def near(found: Array, expected: Array, terms: Array, dtype: str) -> None:
    """Compare with one rounding of the result, and sums of so large terms in single precision."""
    bound = STEP[dtype] * np.abs(expected) + 2.0**-20 * terms + 1e-7
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= bound).all()


def targets_here() -> list[Target]:
    """Return this machine, and without its instruction for pairs."""
    host = host_target()
    return [host, replace(host, bfloat16_dot=False)] if host.bfloat16_dot else [host]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("depth", [1, 2, 3, 17, 64, 515])
@pytest.mark.parametrize(("rows", "cols"), [(1, 5), (3, 33), (14, 16), (40, 67)])
def test_constant_weights(dtype: str, depth: int, rows: int, cols: int, tmp_path: Path) -> None:
    a, b = draw(dtype, rows, depth), draw(dtype, depth, cols, seed=4)
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    found = run(model_of(nodes, dtype, {"a": ("n", depth)}, {"b": b}), {"a": a}, tmp_path)
    left, right = a.astype(np.float64), b.astype(np.float64)
    near(found, left @ right, np.abs(left) @ np.abs(right), dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rows", [3, 64])
@pytest.mark.parametrize("depth", [33, 96])
def test_weights_that_a_run_knows(dtype: str, rows: int, depth: int, tmp_path: Path) -> None:
    a, b = draw(dtype, 2, rows, depth), draw(dtype, 2, depth, 45, seed=4)
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    left, right = a.astype(np.float64), b.astype(np.float64)
    for shapes in (((2, rows, depth), (2, depth, 45)), ((2, rows, "k"), (2, "k", 45))):
        model = model_of(nodes, dtype, dict(zip("ab", shapes, strict=True)), {})
        found = run(model, {"a": a, "b": b}, tmp_path)
        near(found, left @ right, np.abs(left) @ np.abs(right), dtype)


CONVOLUTIONS = [
    ((2, 3, 23, 19), (20, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((1, 24, 13, 13), (32, 24, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 64, 28, 28), (64, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 64, 7, 7), (64, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 128, 14, 14), (128, 128, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 32, 14, 14), (48, 32, 1, 1), {"strides": [2, 2]}),
    ((1, 21, 9, 11), (17, 21, 3, 3), {"dilations": [2, 2], "pads": [2, 1, 2, 1]}),
    ((1, 30, 9, 9), (24, 5, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    ((1, 16, 9, 9), (16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
]


def convolved(x: Array, w: Array, attributes: dict[str, Any]) -> Array:
    """Return a convolution in float64, by ONNX's reference."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    infos = [helper.make_tensor_value_info(n, 11, None) for n in ("x", "w")]
    out = helper.make_tensor_value_info("y", 11, None)
    model = helper.make_model(helper.make_graph([node], "double", infos, [out]))
    given = {"x": x.astype(np.float64), "w": w.astype(np.float64)}
    (result,) = onnx.reference.ReferenceEvaluator(model).run(None, given)
    return np.asarray(result)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("x_shape", "w_shape", "attributes"), CONVOLUTIONS)
def test_convolutions(
    dtype: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    attributes: dict[str, Any],
    tmp_path: Path,
) -> None:
    """What stands in front makes the operand a computed one, which may be kept as float32."""
    x, w = draw(dtype, *x_shape), draw(dtype, *w_shape, seed=4)
    nodes = [
        helper.make_node("Neg", ["x"], ["h"]),
        helper.make_node("Conv", ["h", "w"], ["y"], **attributes),
    ]
    found = run(model_of(nodes, dtype, {"x": x_shape}, {"w": w}), {"x": x}, tmp_path)
    near(found, convolved(-x, w, attributes), convolved(abs(x), abs(w), attributes), dtype)


def block(dtype: str) -> onnx.ModelProto:
    """Return two convolutions with a residual, whose input is read by both and by the sum."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["s"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["s"], ["t"]),
        helper.make_node("Conv", ["t", "w"], ["u"]),
        helper.make_node("Add", ["u", "r"], ["y"]),
    ]
    weights = {
        "v": (draw(dtype, 24, 12, 3, 3, seed=5) / 10).astype(numpy_dtype(dtype)),
        "w": (draw(dtype, 12, 24, 1, 1, seed=6) / 5).astype(numpy_dtype(dtype)),
    }
    return model_of(nodes, dtype, {"x": (1, 12, 9, 10)}, weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_are_rounded_between_products(dtype: str, tmp_path: Path) -> None:
    kind, model = numpy_dtype(dtype), block(dtype)
    v, w = (numpy_helper.to_array(t) for t in model.graph.initializer)
    x = draw(dtype, 1, 12, 9, 10)
    r = np.maximum(x, np.zeros((), kind))
    s = convolved(r, v, {"pads": [1, 1, 1, 1]}).astype(kind)
    t = np.maximum(s, np.zeros((), kind))
    expected = convolved(t, w, {}) + r.astype(np.float64)
    found = run(model, {"x": x}, tmp_path)
    # A sum next to a tie may be rounded the other way, which moves results by a part of a step.
    near(found, expected, 2.0**20 * STEP[dtype] * np.ones_like(expected), dtype)
    assert np.mean(np.abs(found - expected) <= STEP[dtype] / 2 * np.abs(expected) + 1e-6) > 0.95


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_in_front_of_a_product_rounds(dtype: str, tmp_path: Path) -> None:
    """Numbers that a half does not hold, whose products tell whether they were rounded."""
    x = np.full((40, 8), 1 + 2.0**-12, np.float32)
    w = np.tile(np.array([[1], [-1]], np.float32), (4, 20))
    x[:, 1::2] = 1
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=CODES[dtype]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    model = model_of(nodes, dtype, {"x": x.shape}, {"w": w.astype(numpy_dtype(dtype))})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    assert (run(model, {"x": x}, tmp_path) == 0).all()


def test_operands_are_kept_as_float32_where_halves_are_not_multiplied() -> None:
    for target in targets_here():
        for dtype in ("float16", "bfloat16"):
            calls, _ = kernels_of(block(dtype), target=target)
            pairs = dtype == "bfloat16" and target.bfloat16_dot
            read = {k.a.dtype for c in calls if isinstance(k := c.kernel, Contraction | Winograd)}
            assert read == {dtype if pairs else "float32"}


def test_winograd_goes_before_pairs_where_it_spares_more() -> None:
    weights = {"v": draw("bfloat16", 64, 64, 1, 1), "w": draw("bfloat16", 64, 64, 3, 3)}
    for size, kinds in ((28, {Contraction, Winograd}), (3, {Contraction})):
        nodes = [
            helper.make_node("Conv", ["x", "v"], ["h"]),
            helper.make_node("Conv", ["h", "w"], ["y"], pads=[1, 1, 1, 1]),
        ]
        model = model_of(nodes, "bfloat16", {"x": (1, 64, size, size)}, weights)
        target = replace(host_target(), bfloat16_dot=True)
        calls, _ = kernels_of(model, target=target, every=True)
        assert {type(c.kernel) for c in calls} & {Winograd, Contraction} == kinds


@pytest.mark.parametrize("fixed", [True, False])
def test_kernels_agree_with_the_interpreter(fixed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(28)
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    weights = {"b": draw("bfloat16", 41, 37)} if fixed else {}
    inputs: dict[str, tuple[int | str, ...]] = {"a": (50, 41)}
    model = model_of(nodes, "bfloat16", inputs if fixed else inputs | {"b": (41, 37)}, weights)
    for target in targets_here():
        calls, _ = kernels_of(model, target=target)
        products = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
        assert [k.dot is not None and k.dot.size == PAIR for k in products] == [target.bfloat16_dot]
        for call in calls:
            trial = trial_of(call, target, {}, rng, odd=False)
            for found, wanted in zip(
                execute(trial, tmp_path, threads=2), interpret(trial, precise=True), strict=True
            ):
                error = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
                assert (error <= STEP["bfloat16"] * np.abs(wanted.astype(np.float64)) + 1e-5).all()


def test_infinities_and_nan_pass_through_pairs(tmp_path: Path) -> None:
    a, b = np.ones((4, 34), np.float32), np.ones((34, 20), np.float32)
    a[0, 5], a[1, 33], a[2, 0], a[2, 1] = np.inf, np.nan, np.inf, -np.inf
    kind = numpy_dtype("bfloat16")
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    model = model_of(nodes, "bfloat16", {"a": a.shape}, {"b": b.astype(kind)})
    found = run(model, {"a": a.astype(kind)}, tmp_path)
    assert np.isposinf(found[0]).all()
    assert np.isnan(found[1:3]).all()
    np.testing.assert_array_equal(found[3], np.full(20, 34.0))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("x86_64-linux-gnu:znver4", "vdpbf16ps"),
        ("x86_64-linux-gnu:znver5", "vdpbf16ps"),
        ("x86_64-linux-gnu:sapphirerapids", None),
        ("aarch64-linux-gnu:neoverse-v1+bf16", "bfdot"),
        ("x86_64-linux-gnu:cascadelake", None),
        ("aarch64-linux-gnu:neoverse-n1", None),
    ],
)
def test_one_instruction_multiplies_pairs_where_it_is_fast(name: str, word: str | None) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    weights = {"b": draw("bfloat16", 64, 96)}
    calls, target = kernels_of(model_of(nodes, "bfloat16", {"a": (28, 64)}, weights), target=name)
    assert target.bfloat16_dot == (word is not None)
    assert ("avx512bf16" in target.required) == (word == "vdpbf16ps")
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    assembly = assembly_of(kernel_text("k", kernel, (), target), target)
    assert {w for w in ("vdpbf16ps", "bfdot") if w in assembly} == ({word} if word else set())

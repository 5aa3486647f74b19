"""Products in pairs: results of any size, values of any kind, and when they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import host_target, resolve_target
from whet.kernel.expr import Var
from whet.kernel.paired_schedule import PairedWork, fits_pairs, paired_tile, paired_variants
from whet.kernel.schedules import Answer, Question
from whet.kernel.spec import ACCUMULATOR, Contraction
from whet.lower.select import KernelCall
from whet.target import Target
from whet.tests.kernel_runner import Trial, execute, interpret, kernels_of, trial_of
from whet.tests.test_conform_assembly import SPILL, inner_loops
from whet.tune.candidates import candidates

ZEN4 = "x86_64-unknown-linux-gnu:znver4"
CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"
FLOAT = onnx.TensorProto.FLOAT
EPSILON = 2.0**-24
UNITS = 8
LARGEST = 24
"""Units of the last place of the largest result of a row that any of it may be wrong by."""
SUBNORMAL = 2.0**-126
ALL: dict[str, int | None] = {"pair_products": None, "gate_products": None, "add_products": None}
Array = np.ndarray[Any, np.dtype[Any]]


def product_of(
    rows: tuple[int | str, ...], depth: int, columns: int, weights: Array | None = None
) -> onnx.ModelProto:
    """Return a product with a bias, a residual and a function behind it."""
    rng = np.random.default_rng(depth)
    if weights is None:
        weights = rng.standard_normal((depth, columns)).astype(np.float32)
    constants = {"w": weights, "b": rng.standard_normal(columns).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Add", ["q", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return _model(nodes, {"x": (*rows, depth), "r": (*rows, columns)}, constants)


def convolution_of(
    shape: tuple[int, ...], columns: int, size: int, **attributes: list[int]
) -> onnx.ModelProto:
    """Return a convolution of an image whose channels are neighbours, with a bias."""
    rng = np.random.default_rng(columns)
    weights = rng.standard_normal((columns, shape[-1], size, size)).astype(np.float32)
    constants = {"w": weights, "b": rng.standard_normal(columns).astype(np.float32)}
    node = helper.make_node("Conv", ["n", "w", "b"], ["y"])
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return _model([_by_channels("x", "n"), node], {"x": shape}, constants)


def _by_channels(name: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [name], [result], perm=[0, 3, 1, 2])


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int | str, ...]],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def host() -> Target:
    """Return this machine, as if additions had units of their own."""
    return replace(host_target(), adds_apart=True)


def paired_of(model: onnx.ModelProto, target: Target) -> KernelCall:
    """Return the only product of a model, which is in pairs."""
    calls, _ = kernels_of(model, target=target, rewrites=ALL)
    (call,) = (c for c in calls if isinstance(c.kernel, Contraction))
    assert isinstance(call.kernel, Contraction)
    assert call.kernel.pairs is not None
    return call


def check(trial: Trial, cache: Path, *, threads: tuple[int, ...] = (1, 2)) -> None:
    """Compare a product with float64: the error is that of a sum of so many terms, row by row."""
    (expected,) = interpret(trial, precise=True)
    bound = _bound(trial, expected)
    for count in threads:
        (result,) = execute(trial, cache, threads=count)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(result[~finite], expected[~finite].astype(np.float32))
        error = np.abs(result[finite].astype(np.float64) - expected[finite])
        assert (error <= bound[finite]).all(), (error / bound[finite]).max()


def _bound(trial: Trial, expected: Array) -> Array:
    """Return the error that is allowed: some units of the last place of the terms together."""
    kernel = trial.call.kernel
    assert isinstance(kernel, Contraction)
    assert kernel.pairs is not None
    operands = {a.param for a in kernel.scalars} | {kernel.b.param, kernel.pairs.factors}
    squares = [
        np.square(v.astype(np.float64)) * (k in operands) for k, v in enumerate(trial.buffers)
    ]
    call = _sums_of(trial.call)
    with np.errstate(all="ignore"):
        (norms,) = interpret(Trial(call, squares, trial.dims, trial.target), precise=True)
        terms: Array = np.sqrt(trial.length * norms)
    return EPSILON * UNITS * (terms + 1 + np.abs(expected))


def _sums_of(call: KernelCall) -> KernelCall:
    """Return a product whose sums are stored as they are."""
    kernel = call.kernel
    assert isinstance(kernel, Contraction)
    (store,) = kernel.stores
    stores = (replace(store, value=Var(ACCUMULATOR, "float32")),)
    return replace(call, kernel=replace(kernel, stores=stores))


def _input_of(trial: Trial) -> Array:
    """Return the rows of a product of 29 rows."""
    kernel = trial.call.kernel
    assert isinstance(kernel, Contraction)
    return trial.buffers[kernel.a.param].reshape(29, -1)


@pytest.mark.parametrize("depth", [48, 61, 64, 95, 96, 100, 144, 200, 333])
@pytest.mark.parametrize("columns", [64, 77])
def test_depths_of_any_size(depth: int, columns: int, tmp_path: Path) -> None:
    """One group or several, an even or an odd number of them, with any rest behind."""
    call = paired_of(product_of((29,), depth, columns), host())
    check(trial_of(call, host(), {}, np.random.default_rng(depth), odd=False), tmp_path)


@pytest.mark.parametrize("rows", [(8,), (9,), (25,), (26,), (53,), (3, 11), (2, 40)])
def test_rows_of_any_number(rows: tuple[int, ...], tmp_path: Path) -> None:
    call = paired_of(product_of(rows, 96, 80), host())
    check(trial_of(call, host(), {}, np.random.default_rng(1), odd=False), tmp_path)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_batch_that_the_run_knows(batch: int, tmp_path: Path) -> None:
    call = paired_of(product_of(("batch", 40), 96, 80), host())
    trial = trial_of(call, host(), {"batch": batch}, np.random.default_rng(1), odd=False)
    check(trial, tmp_path)


@pytest.mark.parametrize("items", [1, 2, 9])
@pytest.mark.parametrize("panels", [1, 3, 100])
def test_chunks_of_any_size(items: int, panels: int, tmp_path: Path) -> None:
    """A thread's chunk finds the rows that the one before left, unless they are others."""
    call = paired_of(product_of((70,), 64, 77), host())
    kernel = call.kernel
    assert isinstance(kernel, Contraction)
    tile = replace(kernel.tile, rows=8, row_items=items, panels=panels)
    changed = replace(call, kernel=replace(kernel, tile=tile))
    trial = trial_of(changed, host(), {}, np.random.default_rng(2), odd=False)
    check(trial, tmp_path, threads=(1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "size", "attributes"),
    [
        ((1, 9, 9, 64), 1, {}),
        ((2, 15, 9, 64), 1, {"strides": [2, 2]}),
        ((1, 13, 12, 77), 1, {"strides": [2, 2], "pads": [1, 2, 1, 0]}),
        ((1, 14, 14, 64), 3, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 23, 17, 64), 3, {"strides": [2, 1], "pads": [0, 1, 2, 3]}),
        ((2, 11, 19, 48), 3, {"dilations": [2, 3], "strides": [1, 2], "pads": [2, 3, 2, 3]}),
        ((1, 12, 12, 64), 5, {"strides": [3, 3], "pads": [2, 2, 2, 2]}),
    ],
)
def test_convolutions(
    shape: tuple[int, ...], size: int, attributes: dict[str, list[int]], tmp_path: Path
) -> None:
    """Taps are part of the depth; rows of several lines, and outside of the image, are packed."""
    call = paired_of(convolution_of(shape, 72, size, **attributes), host())
    check(trial_of(call, host(), {}, np.random.default_rng(3), odd=False), tmp_path)


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-3, 1e10, 1e30])
def test_rows_of_any_magnitude(scale: float, tmp_path: Path) -> None:
    """Rows are divided by their size, so that each is as exact as any; zeros stay zeros."""
    call = _sums_of(paired_of(product_of((29,), 96, 64), host()))
    trial = trial_of(call, host(), {}, np.random.default_rng(4), odd=False)
    x = _input_of(trial)
    x[::3] *= np.float32(scale)
    x[5] = 0
    (expected,) = interpret(trial, precise=True)
    (result,) = execute(trial, tmp_path)
    result, expected = result.reshape(29, 64), expected.reshape(29, 64)
    assert not result[5].any()
    error = np.abs(result - expected).max(1)
    assert (error <= LARGEST * EPSILON * np.abs(expected).max(1) + SUBNORMAL).all()


def test_columns_of_any_magnitude(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((96, 64)) * 10.0 ** rng.integers(-37, 30, 64)
    weights[:, 7] = 0
    model = product_of((29,), 96, 64, weights.astype(np.float32))
    trial = trial_of(_sums_of(paired_of(model, host())), host(), {}, rng, odd=False)
    (expected,) = interpret(trial, precise=True)
    (result,) = execute(trial, tmp_path)
    result, expected = result.reshape(29, 64), expected.reshape(29, 64)
    assert not result[:, 7].any()
    error = np.abs(result - expected).max(0)
    assert (error <= LARGEST * EPSILON * np.abs(expected).max(0) + SUBNORMAL).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_change_their_row_alone(value: float, tmp_path: Path) -> None:
    trial = trial_of(
        paired_of(product_of((29,), 96, 64), host()),
        host(),
        {},
        np.random.default_rng(6),
        odd=False,
    )
    _input_of(trial)[11, ::5] = value
    (expected,) = interpret(trial, precise=False)
    (result,) = execute(trial, tmp_path)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))
    others = np.isfinite(expected)
    np.testing.assert_allclose(result[others], expected[others], 1e-4, 1e-4)


def test_rows_too_large_to_add_up(tmp_path: Path) -> None:
    """Results that are no larger than float32 holds are right, the others infinite."""
    call = _sums_of(paired_of(product_of((29,), 96, 64), host()))
    trial = trial_of(call, host(), {}, np.random.default_rng(6), odd=False)
    _input_of(trial)[11] = np.float32(2e37)
    (expected,) = interpret(trial, precise=True)
    (result,) = execute(trial, tmp_path)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(result, expected.astype(np.float32), 1e-4, 1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_change_their_column_alone(
    value: float, tmp_path: Path
) -> None:
    weights = np.random.default_rng(7).standard_normal((96, 64)).astype(np.float32)
    weights[3, 5] = value
    call = paired_of(product_of((29,), 96, 64, weights), host())
    check(trial_of(call, host(), {}, np.random.default_rng(7), odd=False), tmp_path)


def test_numbers_of_any_kind(tmp_path: Path) -> None:
    call = paired_of(product_of((29,), 96, 64), host())
    trial = trial_of(call, host(), {}, np.random.default_rng(8), odd=True)
    (expected,) = interpret(trial, precise=False)
    (result,) = execute(trial, tmp_path)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))


@pytest.mark.parametrize("positive", [False, True])
def test_errors_are_those_of_plain_sums(tmp_path: Path, *, positive: bool) -> None:
    """Pairs have their signs in turn: without, sums of positive values are 20 times as wrong."""
    model = product_of((64,), 3072, 64)
    errors = []
    for rewrites in (ALL, {}):
        calls, _ = kernels_of(model, target=host(), rewrites=rewrites)
        (call,) = (c for c in calls if isinstance(c.kernel, Contraction))
        trial = trial_of(_sums_of(call), host(), {}, np.random.default_rng(9), odd=False)
        assert isinstance(call.kernel, Contraction)
        x = trial.buffers[call.kernel.a.param]
        np.abs(x, out=x if positive else np.empty_like(x))
        (expected,) = interpret(trial, precise=True)
        (result,) = execute(trial, tmp_path)
        errors.append(np.sqrt(np.square(result - expected).mean()))
    assert errors[0] < 2 * errors[1]


def test_a_gate_and_a_second_operand(tmp_path: Path) -> None:
    """Each depth value times a factor, as of squeeze and excitation; and two sums in one."""
    rng = np.random.default_rng(10)
    gated = [
        helper.make_node("Mul", ["x", "g"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    matrix = rng.standard_normal((96, 64)).astype(np.float32)
    model = _model(gated, {"x": (196, 96), "g": (1, 96)}, {"w": matrix})
    call = paired_of(model, host())
    assert isinstance(call.kernel, Contraction)
    assert call.kernel.gate is not None
    check(trial_of(call, host(), {}, rng, odd=False), tmp_path)
    added = [
        _by_channels("x", "m"),
        _by_channels("z", "n"),
        helper.make_node("Conv", ["m", "w", "b"], ["p"]),
        helper.make_node("Conv", ["n", "v", "c"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    constants = {
        "w": rng.standard_normal((256, 96, 1, 1)).astype(np.float32),
        "v": rng.standard_normal((256, 128, 1, 1)).astype(np.float32),
        "b": rng.standard_normal(256).astype(np.float32),
        "c": rng.standard_normal(256).astype(np.float32),
    }
    shapes = {"x": (1, 14, 14, 96), "z": (1, 14, 14, 128)}
    call = paired_of(_model(added, shapes, constants), host())
    assert isinstance(call.kernel, Contraction)
    assert call.kernel.second is not None
    check(trial_of(call, host(), {}, rng, odd=False), tmp_path)


def test_products_are_paired_where_additions_have_units_of_their_own() -> None:
    work = PairedWork(1, 128, 768, 768)
    target = resolve_target(ZEN4)
    assert paired_tile(work, target, 2) is not None
    for changes in ({"depth": 47}, {"rows": 7}, {"cols": 32}, {"depth": 25088}):
        assert paired_tile(replace(work, **changes), target, 2) is None, changes
    assert paired_tile(work, resolve_target(CASCADELAKE), 2) is None


def test_the_tuner_tries_plain_products_and_other_chunks() -> None:
    target, work = resolve_target(ZEN4), PairedWork(1, 128, 768, 768)
    tile = paired_tile(work, target, 2)
    assert tile is not None
    options = candidates(Question(work, target, 2), Answer(0, tile))
    assert Answer() in options
    assert {o.tile for o in options} >= set(paired_variants(tile, work, target)) - {tile}
    assert Answer(0, tile) in candidates(Question(work, target, 2), Answer())
    assert all(fits_pairs(o.tile, work, target) for o in options if o.tile is not None)
    wrong: tuple[dict[str, int], ...] = (
        {"rows": 26}, {"vectors": 2}, {"block": 48}, {"near": 8}, {"unroll": 3},
    )  # fmt: skip
    for change in wrong:
        assert not fits_pairs(replace(tile, **change), work, target), change
    lines = replace(work, rows=21, whole=True)
    tile = paired_tile(lines, target, 2)
    assert tile is not None
    assert tile.rows == 21
    assert {t.rows for t in paired_variants(tile, lines, target)} == {21}


def test_a_switch_keeps_products_plain() -> None:
    model = product_of((29,), 96, 64)
    for rewrites, paired in ((ALL, True), ({"pair_products": 0}, False)):
        calls, _ = kernels_of(model, target=host(), rewrites=rewrites)
        (kernel,) = (c.kernel for c in calls if isinstance(c.kernel, Contraction))
        assert (kernel.pairs is not None) == paired


def test_loops_add_and_multiply_from_memory() -> None:
    """Two additions and two multiply-adds for each row, and nothing put aside on the stack."""
    target = resolve_target(ZEN4)
    kernel = paired_of(product_of((100,), 768, 64), target).kernel
    assert isinstance(kernel, Contraction)
    rows = kernel.tile.rows
    assert rows == 25
    text = assembly_of(kernel_text("k", kernel, (), target), target)
    loops = [
        loop for loop in inner_loops(text) if sum("1to16" in line for line in loop) == 3 * rows
    ]
    assert loops
    for loop in loops:
        assert sum("zmm" in line and SPILL.search(line) is not None for line in loop) == 0
        assert sum("vfmadd" in line or "vfnmadd" in line for line in loop) == 2 * rows

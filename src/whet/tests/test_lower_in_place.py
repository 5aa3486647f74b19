"""Results that are written over an operand which nobody reads any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.kernel.expr import Read, walk
from whet.kernel.spec import Contraction
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH = 48
REWRITES = {"update_in_place": None}


def residual(rows: int | str, layers: int, *, also_out: bool = False) -> onnx.ModelProto:
    """Return products each of which is added to what came before."""
    rng = np.random.default_rng(layers)
    nodes, constants = [], []
    for k in range(layers):
        weights = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 7
        constants.append(numpy_helper.from_array(weights, f"w{k}"))
        nodes += [
            helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"p{k}"]),
            helper.make_node("Add", [f"p{k}", f"x{k - 1}" if k else f"x{k}"], [f"x{k + 1}"]),
        ]
    shape = [rows, WIDTH]
    last = f"x{layers}"
    names = [last, f"x{layers - 2}"] if also_out else [last]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)
    return helper.make_model(helper.make_graph(nodes, "residual", [x], outputs, constants))


def in_place(model: onnx.ModelProto) -> int:
    """Return how many products read their own result's memory."""
    calls, _ = kernels_of(model, rewrites=REWRITES)
    return sum(_reads_result(c.kernel) for c in calls if isinstance(c.kernel, Contraction))


def _reads_result(kernel: Contraction) -> bool:
    (store,) = kernel.stores
    return any(isinstance(e, Read) and e.param == store.param for e in walk(store.value))


def expected(model: onnx.ModelProto, x: Array, layers: int) -> Array:
    """Return the result of so many layers in double precision."""
    weights = [numpy_helper.to_array(w).astype(np.float64) for w in model.graph.initializer]
    before, now = None, x.astype(np.float64)
    for w in weights[:layers]:
        before, now = now, now @ w + (now if before is None else before)
    return now


@pytest.mark.parametrize("rows", [1, 13, 131])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_take_the_place_of_an_operand(rows: int, threads: int) -> None:
    model = residual(rows, 6)
    assert in_place(model) >= 2
    x = np.random.default_rng().standard_normal((rows, WIDTH)).astype(np.float32)
    compiled = whet.compile(model, options=whet.Options(threads=threads))
    exact = expected(model, x, 6)
    for _ in range(2):
        found = compiled({"x0": x})["x6"]
        assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


def test_what_is_read_later_stays() -> None:
    model = residual(16, 5, also_out=True)
    x = np.random.default_rng().standard_normal((16, WIDTH)).astype(np.float32)
    found = whet.compile(model, options=whet.Options(threads=2))({"x0": x})
    for layers in (3, 5):
        exact = expected(model, x, layers)
        assert np.abs(found[f"x{layers}"] - exact).max() <= 1e-5 * np.abs(exact).max()
    assert in_place(model) < in_place(residual(16, 5))


def test_rows_that_only_a_run_knows_are_not_overwritten() -> None:
    assert in_place(residual("rows", 6)) == 0


def test_the_interpreter_agrees(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    calls, target = kernels_of(residual(29, 6), rewrites=REWRITES)
    found = [c for c in calls if isinstance(c.kernel, Contraction) and _reads_result(c.kernel)]
    trial = trial_of(found[0], target, {}, rng, odd=False)
    (written,), (exact,) = execute(trial, tmp_path), interpret(trial, precise=True)
    assert np.abs(written - exact).max() <= 1e-5 * np.abs(exact).max()

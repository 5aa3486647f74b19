"""Float rows times weights in few bits: what is computed, the same bits in any company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.targets import resolve_target
from whet.frontend.load import load_model
from whet.kernel.block_formats import FORMATS, WIDE_FORMATS, dequantized, written_blocks
from whet.kernel.dequantized import DequantizedProduct
from whet.kernel.schedules import Schedules
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.tests.test_block_formats import random_rows
from whet.tests.test_contrib_bits import weights

Array = np.ndarray[Any, Any]


def wide_rows(name: str, columns: int, depth: int, seed: int = 3) -> Array:
    """Return random bytes of a format, wide or of GGUF."""
    rng = np.random.default_rng(seed)
    if name in FORMATS:
        return random_rows(name, columns, depth // FORMATS[name].block, rng)
    kind, groups = WIDE_FORMATS[name], depth // 32
    codes = rng.integers(0, 1 << kind.bits, (columns, depth))
    scales = (0.01 + rng.random((columns, groups))).astype(np.float32)
    lows = rng.standard_normal((columns, groups)).astype(np.float32)
    return written_blocks(kind, codes, scales, lows if kind.minimums else None)


def float_model(
    name: str, held: Array, depth: int, *, before: str = "", after: str = ""
) -> ModelProto:
    """Return a model that multiplies float rows, perhaps with an operator on either side."""
    rows, sums = "r" if before else "x", "p" if after else "y"
    product = helper.make_node("BlockMatMul", [rows, "w"], [sums], domain="whet", format=name)
    nodes = [product]
    if before:
        nodes.insert(0, helper.make_node(before, ["x"], ["r"]))
    if after:
        nodes.append(helper.make_node(after, ["p"], ["y"]))
    shape: list[int | str] = ["rows", depth]
    if before == "Transpose":
        shape.reverse()
    graph = helper.make_graph(
        nodes, "floats",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", len(held)])],
        [numpy_helper.from_array(held, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("whet", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def check(found: Array, x: Array, floats: Array) -> None:
    """Compare with double precision; the bound is that of a sum of float32 in any order."""
    right = x.astype(np.float64) @ floats.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(floats).T.astype(np.float64)
    assert found.shape == right.shape
    assert (np.abs(found - right) <= (x.shape[1] + 4) * 2.0**-24 * size + 1e-30).all()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "host") for name in (*WIDE_FORMATS, "Q4_0", "Q4_K", "Q6_K")),
        ("W4_1", "x86_64-linux-gnu:haswell"),
    ],
)
def test_equals_the_product_with_dequantised_weights(name: str, target: str) -> None:
    if resolve_target("host").vector_bytes < resolve_target(target).vector_bytes:
        pytest.skip("this processor cannot run it")
    kind, depth = {**FORMATS, **WIDE_FORMATS}[name], 768
    held = wide_rows(name, 141, depth)
    options = whet.Options(threads=2, target=target)
    compiled = whet.compile(float_model(name, held, depth), options=options)
    rng = np.random.default_rng(5)
    for rows in (0, 1, 7, 24, 163):
        x = rng.standard_normal((rows, depth), np.float32)
        check(compiled({"x": x})["y"], x, dequantized(kind, held))


@pytest.mark.parametrize(("name", "depth"), [("W4_0", 160), ("Q6_K", 512)])
def test_bits_do_not_depend_on_company(name: str, depth: int) -> None:
    """Many rows meet weights in scratch, few meet them in registers."""
    compiled = whet.compile(float_model(name, wide_rows(name, 96, depth), depth))
    x = np.random.default_rng(6).standard_normal((41, depth), np.float32)
    together = compiled({"x": x})["y"]
    for count in (1, 2, 4, 8, 12, 13, 24):
        assert np.array_equal(compiled({"x": x[:count]})["y"], together[:count])


@pytest.mark.parametrize(("before", "after"), [("Relu", "Tanh"), ("Transpose", ""), ("Exp", "Neg")])
def test_what_stands_around_it(before: str, after: str) -> None:
    held, depth = wide_rows("W8_1", 40, 64), 64
    compiled = whet.compile(float_model("W8_1", held, depth, before=before, after=after))
    x = np.random.default_rng(7).standard_normal((5, depth), np.float32)
    start = {"Relu": np.maximum(x, 0), "Exp": np.exp(x), "Transpose": x}[before]
    right = start.astype(np.float64) @ dequantized(WIDE_FORMATS["W8_1"], held).T
    ends = {"Tanh": np.tanh(right), "": right, "Neg": -right}[after]
    given = np.ascontiguousarray(x.T) if before == "Transpose" else x
    assert np.abs(compiled({"x": given})["y"] - ends).max() <= 1e-5 * np.abs(right).max()
    assert compiled.stats.launches == 2  # what comes before, once; what comes after is fused


@pytest.mark.parametrize(
    "case",
    [
        {}, {"zeros": "all", "block": 64}, {"zeros": "float"}, {"bits": 8, "zeros": "all"},
        {"bits": 8, "bias": True}, {"bits": 2}, {"size": 1e-9},
    ],
    ids=str,
)  # fmt: skip
def test_every_bit_of_scales_is_kept(case: dict[str, Any]) -> None:
    w = weights(45, 192, level=0, **case)
    compiled = whet.compile(w.model)
    bias = next((numpy_helper.to_array(t) for t in w.model.graph.initializer if t.name == "c"), 0)
    x = np.random.default_rng(10).standard_normal((9, 192)).astype(np.float32)
    right = x.astype(np.float64) @ w.floats.T + bias
    assert np.abs(compiled({"x": x})["y"] - right).max() <= 2e-6 * np.abs(right).max()
    assert compiled.stats.weight_bytes < 2 * 45 * 192  # not dequantised into memory


def test_rows_that_are_no_matrix_are_refused() -> None:
    model = float_model("W4_0", wide_rows("W4_0", 8, 64), 48)
    with pytest.raises(whet.WhetError, match="blocks of 32"):
        whet.compile(model)


@pytest.mark.parametrize("cpu", ["x86_64-linux-gnu:haswell", "aarch64-linux-gnu:generic"])
def test_other_targets_have_code(cpu: str) -> None:
    target = resolve_target(cpu)
    graph = load_model(float_model("W4_0", wide_rows("W4_0", 45, 256), 256))
    lowered = lower(graph, op_table(), target, level=2, schedules=Schedules(2))
    (kernel,) = (c.kernel for c in lowered.calls if isinstance(c.kernel, DequantizedProduct))
    assert "define void @k(" in kernel_text("k", kernel, ("rows",), target)

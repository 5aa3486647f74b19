"""Products with weights in blocks: against NumPy, the same bits in any company, on any target."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.targets import resolve_target
from whet.frontend.load import load_model
from whet.kernel.block_formats import FORMATS, dequantized
from whet.kernel.blocks import PANEL, BlockProduct, RowQuantization, panel_bytes
from whet.kernel.interpret_blocks import block_product, quantized_rows
from whet.kernel.schedules import Schedules
from whet.lower.blocks import pack_panels
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.tests.test_block_formats import random_rows


def block_model(name: str, weights: np.ndarray, depth: int, *, nodes: str = "") -> ModelProto:
    """Return a model that multiplies rows by weights in blocks; ``nodes`` adds what is around."""
    around = {
        "": [],
        "relu": [helper.make_node("Relu", ["p"], ["y"])],
    }[nodes]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeRows", ["x"], ["rows"], domain="whet", format=name),
            helper.make_node(
                "BlockMatMul", ["rows", "w"], ["p" if around else "y"], domain="whet", format=name
            ),
            *around,
        ],
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", len(weights)])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("whet", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def weights_of(name: str, columns: int, depth: int, seed: int = 3) -> np.ndarray:
    kind = FORMATS[name]
    return random_rows(name, columns, depth // kind.block, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "columns", "target"),
    [
        *((name, 32 + 13 * (k % 2), "host") for k, name in enumerate(FORMATS)),
        ("Q4_0", 45, "x86_64-linux-gnu:haswell"),
        ("Q6_K", 32, "x86_64-linux-gnu:skylake-avx512"),
    ],
)
def test_equals_the_definition(name: str, columns: int, target: str) -> None:
    if resolve_target("host").vector_bytes < resolve_target(target).vector_bytes:
        pytest.skip("this processor cannot run it")
    rng, kind, depth = np.random.default_rng(4), FORMATS[name], 512
    weights = weights_of(name, columns, depth)
    options = whet.Options(threads=2, target=target)
    model = whet.compile(block_model(name, weights, depth), options=options)
    for rows in (1, 2, 3, 7, 12, 29):
        x = rng.standard_normal((rows, depth), np.float32)
        x[rng.random(x.shape) < 0.1] = 0.0
        wanted = block_product(quantized_rows(x, kind.zero, kind.spans), weights, kind)[:rows]
        result = model({"x": x})["y"]
        size = np.abs(x).sum(axis=1, keepdims=True) * np.abs(dequantized(kind, weights)).max()
        assert (np.abs(result - wanted) <= 1e-6 * size).all()
        exact = x.astype(np.float64) @ dequantized(kind, weights).astype(np.float64).T
        assert np.abs(wanted - exact).max() <= 0.02 * np.abs(exact).max()


@pytest.mark.parametrize(("name", "depth"), [("Q4_0", 544), ("Q4_K", 256), ("Q6_K", 768)])
def test_bits_do_not_depend_on_company(name: str, depth: int) -> None:
    """Many rows go by in stretches of 16 groups, few through the whole depth."""
    rng = np.random.default_rng(5)
    model = whet.compile(block_model(name, weights_of(name, 96, depth), depth))
    x = rng.standard_normal((41, depth), np.float32)
    together = model({"x": x})["y"]
    for count in (1, 2, 4, 8, 12, 13, 40):
        assert np.array_equal(model({"x": x[:count]})["y"], together[:count])


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
def test_columns_of_several_weights_follow_each_other(name: str) -> None:
    """Each column has the bits that it has alone, though panels hold columns of several weights."""
    kind, depth, sizes = FORMATS[name], 512, (45, 7, 64)
    parts = {f"w{k}": weights_of(name, n, depth, seed=k) for k, n in enumerate(sizes)}
    merged = block_model(name, parts["w0"], depth)
    node = merged.graph.node[1]
    node.input[:] = ["rows", *parts]
    merged.graph.output[0].type.tensor_type.shape.dim[1].dim_value = sum(sizes)
    del merged.graph.initializer[:]
    merged.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in parts.items())
    together = whet.compile(merged)
    alone = [whet.compile(block_model(name, w, depth)) for w in parts.values()]
    for rows in (1, 13, 29):
        x = np.random.default_rng(rows).standard_normal((rows, depth), np.float32)
        result = together({"x": x})["y"]
        assert np.array_equal(result, np.concatenate([m({"x": x})["y"] for m in alone], axis=1))
        whole = np.concatenate(list(parts.values()))
        wanted = block_product(quantized_rows(x, kind.zero, kind.spans), whole, kind)[:rows]
        assert np.abs(result - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_rows_of_several_chunks_are_shared_out_evenly() -> None:
    rng, depth, kind = np.random.default_rng(9), 8192, FORMATS["Q4_0"]
    weights = weights_of("Q4_0", 32, depth)
    model = whet.compile(block_model("Q4_0", weights, depth))
    for rows in (48, 61, 100):  # a chunk takes 48 of them at most, where level 2 has a mebibyte
        x = rng.standard_normal((rows, depth), np.float32)
        wanted = block_product(quantized_rows(x, kind.zero, kind.spans), weights, kind)[:rows]
        result = model({"x": x})["y"]
        assert np.abs(result - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert np.array_equal(result[-1:], model({"x": x[-1:]})["y"])


def test_zeros_give_zeros_and_nan_stays_in_its_row() -> None:
    model = whet.compile(block_model("Q4_0", weights_of("Q4_0", 32, 64), 64))
    x = np.zeros((3, 64), np.float32)
    assert not model({"x": x})["y"].any()
    x[1, 5], x[2, 7] = np.nan, np.inf
    result = model({"x": x})["y"]
    assert not result[0].any() and not np.isfinite(result[1:]).any()


def test_what_reads_the_sums_is_fused() -> None:
    weights = weights_of("Q8_0", 64, 64)
    plain, fused = (
        whet.compile(block_model("Q8_0", weights, 64, nodes=nodes)) for nodes in ("", "relu")
    )
    x = np.random.default_rng(6).standard_normal((5, 64), np.float32)
    assert np.array_equal(fused({"x": x})["y"], np.maximum(plain({"x": x})["y"], 0))
    assert fused.stats.launches == plain.stats.launches == 2


def test_no_rows_give_no_result() -> None:
    model = whet.compile(block_model("Q4_1", weights_of("Q4_1", 32, 64), 64))
    assert model({"x": np.zeros((0, 64), np.float32)})["y"].shape == (0, 32)


def test_codes_lie_in_the_order_in_which_they_are_read() -> None:
    weights = weights_of("Q8_0", PANEL, 64)
    packed = pack_panels(FORMATS["Q8_0"], weights)
    assert packed.shape == (1, panel_bytes(FORMATS["Q8_0"], 64))
    rows = weights.reshape(PANEL, 2, 34)
    group, column, k = 1, 13, 22
    record = packed[0].reshape(2, -1)[group]
    place = 2 * PANEL + k // 4 * 4 * PANEL + 4 * column + k % 4
    assert record[place] == rows[column, group, 2 + k] ^ 128
    assert (record[2 * column : 2 * column + 2] == rows[column, group, :2]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 48}, "blocks of 32"),
        ({"name": "Q9_9"}, "Q9_9"),
        ({"columns": -1}, "no row of"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    weights = weights_of("Q8_0", 32, 64)
    if "columns" in change:
        weights = weights[:, :-1]
    depth = int(str(change.get("depth", 64)))
    with pytest.raises(whet.WhetError, match=said):
        whet.compile(block_model(str(change.get("name", "Q8_0")), weights, depth))


@pytest.mark.parametrize(
    "cpu",
    ["x86_64-linux-gnu:haswell", "x86_64-linux-gnu:skylake-avx512", "aarch64-linux-gnu:generic"],
)
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_other_targets_have_code(cpu: str, name: str) -> None:
    target = resolve_target(cpu)
    graph = load_model(block_model(name, weights_of(name, 45, 256), 256))
    lowered = lower(graph, op_table(), target, level=2, schedules=Schedules(2))
    kernels = [call.kernel for call in lowered.calls]
    assert [type(k) for k in kernels] == [RowQuantization, BlockProduct]
    for kernel in kernels:
        assert "define void @k(" in kernel_text("k", kernel, ("rows",), target)

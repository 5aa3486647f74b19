"""Merging of products with weights in blocks: the same bits in fewer launches, or left alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

import whet
from whet.graph.edit import static_shape
from whet.graph.match import Miss
from whet.llm.graphs.graph import FLOAT, INT32, UINT8, GraphWriter
from whet.passes import merge_matmuls as merge
from whet.tests.passkit import assert_left_alone
from whet.tests.test_block_product import weights_of

DEPTH, SIZES = 64, {"a": 64, "b": 32, "c": 32}
NORM, SWISH = "RMSNormalization", "Swish"


def projections(
    formats: str = "Q8_0", *, reader: str = NORM, bias: bool = False, rows: int | str = 5
) -> ir.Model:
    """Return three products of the same rows, read in heads of 16."""
    g = GraphWriter()
    x = g.input("x", FLOAT, [rows, DEPTH])
    found: list[ir.Value] = []
    quantized: dict[str, ir.Value] = {}
    for k, (name, columns) in enumerate(SIZES.items()):
        kind = formats.split()[k % len(formats.split())]
        weights = weights_of(kind, columns, DEPTH, seed=k)
        if kind not in quantized:
            quantized[kind] = g.whet_op(
                "QuantizeRows", x, name=f"rows{k}", dims=["t", 2, 12, 10], dtype=INT32, format=kind
            )
        held = g.weight(f"{name}.weights", weights.shape, partial(np.asarray, weights), UINT8)
        y = g.whet_op(
            "BlockMatMul", quantized[kind], held, name=name, dims=[rows, columns], format=kind
        )
        if bias:
            numbers = np.random.default_rng(k).standard_normal(columns).astype(np.float32)
            y = g.op("Add", y, g.constant(f"{name}.bias", numbers), name=f"{name}.biased")
            y.type, y.shape = ir.TensorType(FLOAT), ir.Shape([rows, columns])
        heads = g.constant(f"{name}.heads", np.array([-1, columns // 16, 16], np.int64))
        y = g.op("Reshape", y, heads, name=f"{name}.split")
        scale = [g.constant("scale", np.ones(16, np.float32))] if reader == NORM else []
        y = g.op(reader, y, *scale, name=f"{name}.read")
        y.type, y.shape = ir.TensorType(FLOAT), ir.Shape([rows, columns // 16, 16])
        found.append(y)
    return g.model("projections", found)


def product_of(model: ir.Model) -> tuple[ir.Node, ir.Value]:
    """Return the last product, and its rows."""
    node = [n for n in model.graph if n.op_type == "BlockMatMul"][-1]
    rows = node.inputs[0]
    assert rows is not None
    return node, rows


def test_products_of_a_format_become_one() -> None:
    model = projections()
    assert merge.merge_matmuls(model) == 3
    product, rows = product_of(model)
    assert [v.name for v in product.inputs[1:] if v is not None] == [f"{n}.weights" for n in SIZES]
    assert product.attributes["format"].as_string() == "Q8_0"
    assert static_shape(product.outputs[0]) == (5, 128)
    assert merge.merge_matmuls(model) == 0
    found = merge.as_product(product, rows)
    assert found == Miss("it has several weights already")


def test_the_format_decides_who_is_merged() -> None:
    """The first and the third have it in common, as queries and keys have in mixed files."""
    model = projections("Q4_0 Q8_0 Q4_0")
    assert merge.merge_matmuls(model) == 2
    assert_left_alone(merge.merge_matmuls, projections("Q4_0 Q8_0 Q4_1"))


def test_what_is_read_element_by_element_keeps_its_epilogue() -> None:
    model = projections(reader=SWISH)
    assert_left_alone(merge.merge_matmuls, model)
    found = merge.as_product(*product_of(model))
    assert found == Miss("what reads it is computed in its epilogue")


@pytest.mark.parametrize("bias", [False, True])
def test_the_bits_stay(bias: bool) -> None:
    merged, apart = (
        whet.compile(
            projections("Q4_0 Q4_0 Q8_0", bias=bias, rows="rows"),
            options=whet.Options(threads=2, passes={"merge_matmuls": on}),
        )
        for on in (True, False)
    )
    for rows in (0, 1, 13, 29):
        x = np.random.default_rng(rows).standard_normal((rows, DEPTH), np.float32)
        results = merged({"x": x}), apart({"x": x})
        assert all(np.array_equal(results[0][name], y) for name, y in results[1].items())
    assert merged.stats.launches == apart.stats.launches - 1
    assert merged.stats.weight_bytes == apart.stats.weight_bytes

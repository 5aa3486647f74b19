"""Operands whose shapes contradict each other are refused: nothing is read or written outside."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import ModelError, ShapeError, WhetError
from whet.runtime.model import CompiledModel

HEAD = '<ir_version: 11, opset_import: ["" : 24]>\n'
HEADS = "kv_num_heads=3, q_num_heads=3"
WRONG = {
    "a batch of keys": f"""(float[2,4,24] q, float[7,6,24] k, float[2,6,24] v)
        => (float[2,4,24] y) {{ y = Attention<{HEADS}>(q, k, v) }}""",
    "a batch of keys behind earlier ones": f"""(float[2,4,24] q, float[7,6,24] k, float[2,6,24] v,
        float[2,3,12,8] a, float[2,3,12,8] b) => (float[2,4,24] y, float[2,3,18,8] p) {{
        y, p, r = Attention<{HEADS}>(q, k, v, , a, b) }}""",
    "a length of values": f"""(float[2,4,24] q, float[2,6,24] k, float[2,5,24] v)
        => (float[2,4,24] y) {{ y = Attention<{HEADS}>(q, k, v) }}""",
    "rows of a mask": f"""(float[2,4,24] q, float[2,6,24] k, float[2,6,24] v, float[3,6] m)
        => (float[2,4,24] y) {{ y = Attention<{HEADS}>(q, k, v, m) }}""",
    "angles": """(float[2,3,5,8] x, float[2,4,4] c, float[2,4,4] s) => (float[2,3,5,8] y) {
        y = RotaryEmbedding(x, c, s) }""",
    "sines": """(float[2,3,5,8] x, float[2,5,4] c, float[2,4,4] s) => (float[2,3,5,8] y) {
        y = RotaryEmbedding(x, c, s) }""",
    "positions": """(float[2,3,5,8] x, float[9,4] c, float[9,4] s, int64[2,4] p)
        => (float[2,3,5,8] y) { y = RotaryEmbedding(x, c, s, p) }""",
    "bounds": "(float[4] x, float[3] a) => (float[4] y) { y = Clip(x, a) }",
}  # fmt: skip


def compiled(text: str) -> CompiledModel:
    model = onnx.parser.parse_model(HEAD + "g " + text)
    return whet.compile(model, options=whet.Options(threads=1))


@pytest.mark.parametrize("what", WRONG)
def test_contradictions_are_refused(what: str) -> None:
    with pytest.raises((ShapeError, ModelError)):
        compiled(WRONG[what])


def test_contradictions_between_open_dims_are_refused_in_a_run() -> None:
    model = compiled(
        f"""(float[b,4,24] q, float[c,6,24] k, float[d,6,24] v) => (float[b,4,24] y) {{
        y = Attention<{HEADS}>(q, k, v) }}"""
    )
    feeds = {
        n: np.ones((2, length, 24), np.float32) for n, length in (("q", 4), ("k", 6), ("v", 6))
    }
    assert np.allclose(model(feeds)["y"], 1)
    with pytest.raises(ShapeError, match="do not fit"):
        model({**feeds, "k": feeds["k"][:1].copy()})


@pytest.mark.parametrize("version", [0, 99])
def test_opsets_that_do_not_exist_are_refused(version: int) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Scatter", ["x", "x", "x"], ["y"])
    imports = [helper.make_opsetid("", version)]
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    with pytest.raises(WhetError):
        whet.compile(model)

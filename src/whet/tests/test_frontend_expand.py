"""Operators that become the function that ONNX defines them with."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import whet
from whet.frontend.expand import EXPANDED
from whet.frontend.load import load_model
from whet.graph.opset import PREVIEW_DOMAIN
from whet.tests.compiled_node import Array, check_node, node_model

RULES = {"linear": "", "gated": "g", "delta": "b", "gated_delta": "gb"}


@pytest.mark.parametrize(("rule", "length"), list(product(RULES, [1, 5])))
def test_linear_attention(rule: str, length: int) -> None:
    batch, heads, groups, size, width = 2, 4, 2, 3, 5
    rng = np.random.default_rng(length)
    q, k = (rng.standard_normal((batch, length, n * size)) * 0.4 for n in (heads, groups))
    v = rng.standard_normal((batch, length, groups * width))
    state = rng.standard_normal((batch, groups, size, width))
    decay = -np.abs(rng.standard_normal((batch, length, groups * size)))
    rate = rng.random((batch, length, groups))
    inputs: list[Array | None] = [q, k, v, state]
    inputs += [decay if "g" in RULES[rule] else None, rate if "b" in RULES[rule] else None]
    form: Any = {"q_num_heads": heads, "kv_num_heads": groups, "update_rule": rule, "outputs": 2}
    runtime: Any = [["B", "T", a.shape[2]] if a is not None else None for a in inputs]
    runtime[3] = ["B", *state.shape[1:]]
    check_node("LinearAttention", *inputs, shapes=runtime, **form)


def _modifier(op: str, name: str) -> Any:
    """Return a graph that applies one operator to a value and 0.5."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "H", "L", "S"])
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", "H", "L", "S"])
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    return helper.make_graph(
        [helper.make_node(op, ["x", "half"], ["z"])], name, [value], [result], [half]
    )


@pytest.mark.parametrize("modified", [False, True])
def test_flex_attention(modified: bool) -> None:
    rng = np.random.default_rng(4)
    q = rng.standard_normal((2, 4, 5, 8))
    k, v = rng.standard_normal((2, 2, 7, 8)), rng.standard_normal((2, 2, 7, 3))

    def expected(q: Array, k: Array, v: Array) -> list[Array]:
        k, v = np.repeat(k, 2, 1), np.repeat(v, 2, 1)
        scores = q @ k.swapaxes(-1, -2) * 0.3
        scores = scores * 0.5 if modified else scores
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return [(weights - 0.5 if modified else weights) @ v]

    form: Any = {"domain": PREVIEW_DOMAIN, "scale": 0.3}
    if modified:
        form |= {"score_mod": _modifier("Mul", "score"), "prob_mod": _modifier("Sub", "prob")}
    runtime: Any = [["B", 4, "L", 8], ["B", 2, "S", 8], ["B", 2, "S", 3]]
    check_node("FlexAttention", q, k, v, shapes=runtime, expected=expected, **form)


def test_nothing_of_the_operator_is_left() -> None:
    x = np.ones((1, 2, 4), np.float32)
    form: Any = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "outputs": 2}
    model = load_model(node_model("LinearAttention", [x, x, x], **form))
    assert not model.functions
    assert not any((n.domain, n.op_type) in EXPANDED for n in model.graph.all_nodes())
    assert "Scan" in {n.op_type for n in model.graph.all_nodes()}


def test_a_branch_that_reads_what_cannot_be_lowered_is_not_blamed() -> None:
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [])
    branches = [
        helper.make_graph([helper.make_node("Identity", ["d"], ["r"])], name, [], [result])
        for name in ("then", "else")
    ]
    nodes = [
        helper.make_node("Det", ["x"], ["d"], name="det"),
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [100, 100]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "behind", inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(whet.UnsupportedError, match="Det") as caught:
        whet.compile(proto)
    assert caught.value.where == "det"

"""Bisection over passes and rewrites, and the smallest model that shows a fault."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from whet.measure.accuracy.bisect import bisect_passes
from whet.measure.accuracy.failure import Question, find_failure, same_failure
from whet.measure.accuracy.graphs import (
    slice_nodes,
    with_outputs,
)
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reduce import reduce_model
from whet.measure.accuracy.reference import run_golden
from whet.options import Options
from whet.tests.chain_models import biased_chain, chain, feeds_of, spoil_gemm
from whet.tests.faulty import plant_wrong_operator, plant_wrong_rewrite
from whet.tests.target_models import CASES

RECIPE = Recipe(Options(threads=1))


def _question(model: onnx.ModelProto) -> Question:
    feeds = feeds_of(model)
    return Question(feeds, run_golden(model, feeds, "onnx"))


def test_bisect_names_pass_and_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased_chain(5)
    plant_wrong_rewrite(monkeypatch, "fold_scale", spoil_gemm, 4)
    found = bisect_passes(model, RECIPE, _question(model))
    assert (found.stage, found.name) == ("pass", "fold_scale")
    assert (found.rewrite, found.rewrites) == (4, 5)
    assert (
        "+%s3 = Gemm" in found.change.replace('"', "").replace("  ", " ") or "Gemm" in found.change
    )
    assert found.failure is not None
    assert found.failure.kind == "wrong"
    recipe = RECIPE.switched(found.passes)
    assert find_failure(recipe, model, _question(model)) is not None
    less = RECIPE.switched({**found.passes, found.name: found.rewrite - 1})
    assert find_failure(less, model, _question(model)) is None


def test_bisect_of_what_is_right_and_of_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased_chain(2)
    assert bisect_passes(model, RECIPE, _question(model)).stage == "nothing"
    plant_wrong_operator(monkeypatch, "Tanh")
    found = bisect_passes(model, RECIPE, _question(model))
    assert (found.stage, found.level) == ("kernel", 0)


def test_bisect_of_a_pass_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(graph: ir.Graph, node: ir.Node) -> None:
        raise ZeroDivisionError("planted")

    model = biased_chain(4)
    plant_wrong_rewrite(monkeypatch, "fold_scale", explode, 2)
    found = bisect_passes(model, RECIPE, _question(model))
    assert (found.stage, found.name, found.rewrite) == ("pass", "fold_scale", 2)
    assert found.failure is not None
    assert found.failure.kind == "error"


def test_reduce_leaves_the_wrong_node(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_wrong_operator(monkeypatch, "Sigmoid")
    model = chain(["Relu", "Tanh", "Neg", "Sigmoid", "Tanh", "Relu", "Neg"])
    feeds = feeds_of(model)
    found = reduce_model(model, feeds, RECIPE)
    assert found is not None
    assert [n.op_type for n in found.model.graph.node] == ["Sigmoid"]
    assert (found.nodes, found.nodes_before) == (("act3",), 14)
    onnx.checker.check_model(found.model)
    again = find_failure(RECIPE, found.model, Question(found.feeds, found.golden))
    assert same_failure(again, found.failure)


@pytest.mark.slow
def test_reduce_of_bert_leaves_a_few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    build, draw = CASES["transformer"]
    model, feeds = build(), draw(np.random.default_rng(2))
    plant_wrong_operator(monkeypatch, "Gelu")
    found = reduce_model(model, feeds, RECIPE)
    assert found is not None
    assert found.nodes_before > 60
    kinds = [n.op_type for n in found.model.graph.node]
    assert "Gelu" in kinds
    assert len(kinds) < 10
    again = find_failure(RECIPE, found.model, Question(found.feeds, found.golden))
    assert same_failure(again, found.failure)


def test_reduce_keeps_two_nodes_that_fail_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased_chain(4)
    plant_wrong_rewrite(monkeypatch, "fold_scale", spoil_gemm, 1)
    found = reduce_model(model, feeds_of(model), RECIPE)
    assert found is not None
    assert [n.op_type for n in found.model.graph.node] == ["MatMul", "Add"]


def test_reduce_of_what_does_not_fail() -> None:
    model = chain(["Relu"])
    assert reduce_model(model, feeds_of(model), RECIPE) is None


def test_reduce_freezes_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Reshape to a computed shape stays one when the nodes that compute the shape go."""
    plant_wrong_operator(monkeypatch, "Tanh")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["d"]),
        helper.make_node("Concat", ["d", "minus"], ["t"], axis=0),
        helper.make_node("Tanh", ["r"], ["h"]),
        helper.make_node("Reshape", ["h", "t"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([-1], np.int64), "minus"),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", 2, 3))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": np.ones((2, 2, 3), np.float32)}
    found = reduce_model(model, feeds, RECIPE)
    assert found is not None
    assert [n.op_type for n in found.model.graph.node] == ["Tanh"]
    golden = run_golden(with_outputs(model, ["h", "t"]), feeds, "onnx").values
    part = slice_nodes(model, [5], golden, frozenset({"t"}))
    assert {t.name for t in part.graph.initializer} == {"t"}

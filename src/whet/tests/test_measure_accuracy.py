"""Metrics with known answers, limits, and where an error is said to arise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from whet.errors import ArtifactError, InputError, ModelError, OptionError, UnsupportedError
from whet.measure.accuracy.bisect import bisect_passes
from whet.measure.accuracy.failure import Question, find_failure, same_failure
from whet.measure.accuracy.graphs import (
    cut_at,
    given_name,
    input_specs,
    read_proto,
    slice_nodes,
    with_outputs,
)
from whet.measure.accuracy.layers import verify_layers
from whet.measure.accuracy.limits import find_breaches, limits_for, parse_limits
from whet.measure.accuracy.metrics import measure_error
from whet.measure.accuracy.recipe import Recipe, recipe_of
from whet.measure.accuracy.reduce import reduce_model
from whet.measure.accuracy.reference import Golden, run_golden
from whet.measure.accuracy.stretches import with_fusion
from whet.measure.accuracy.verify import passed, verify_outputs
from whet.options import Options
from whet.tests.faulty import plant_wrong_operator, plant_wrong_rewrite
from whet.tests.small_models import layer_model, run_layer, write_layer
from whet.tests.target_models import CASES

RECIPE = Recipe(Options(threads=1))


def chain(ops: list[str], width: int = 8) -> onnx.ModelProto:
    """Return a chain of ``MatMul`` and the named unary operators in turn."""
    nodes, constants, last = [], [], "x"
    rng = np.random.default_rng(0)
    for number, op in enumerate(ops):
        weight = rng.standard_normal((width, width)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node(op, [f"m{number}"], [f"a{number}"], name=f"act{number}"))
        last = f"a{number}"
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (3, width))
    y = helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, (3, width))
    graph = helper.make_graph(nodes, "chain", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        s.name: rng.standard_normal([d for d in s.shape if isinstance(d, int)]).astype(s.dtype)
        for s in input_specs(model)
    }


def test_metrics_of_known_arrays() -> None:
    golden = np.array([3.0, 4.0, 0.0, -5.0], np.float32)
    found = golden + np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    m = measure_error(found, golden)
    assert m.elements == 4
    assert m.mismatches == 0.25
    assert m.max_abs == 1.0
    assert m.mean_abs == 0.25
    assert m.max_scaled == pytest.approx(0.2)
    assert m.max_relative == pytest.approx(0.25)
    assert m.mean_relative == pytest.approx(0.0625)
    assert m.accumulated_relative == pytest.approx(1 / 12)
    assert m.rmse == pytest.approx(0.5)
    assert m.relative_euclidean == pytest.approx(1 / math.sqrt(50))
    assert m.cosine == pytest.approx(54 / math.sqrt(50 * 59))
    assert m.worst == (1,)
    assert m.max_ulp == 2**21  # a quarter of the 2^23 floats between 4 and 8


def test_divergence_is_that_of_the_softmax() -> None:
    golden, found = np.array([0.0, math.log(3.0)]), np.array([0.0, 0.0])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert measure_error(found, golden).kl == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn"])
def test_one_step_of_a_float_type(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    epsilon = float(ml_dtypes.finfo(kind).eps)  # type: ignore[no-untyped-call]
    golden = np.array([-1.0, 1.0], kind)
    found = golden.copy()
    found[1] = kind.type(1.0 + epsilon)
    m = measure_error(found, golden)
    assert m.dtype == dtype
    assert m.max_relative == pytest.approx(epsilon)
    assert m.max_ulp == (None if kind.itemsize == 1 else 1.0)


def test_ulp_counts_across_zero() -> None:
    tiny = np.float32(1e-45)
    assert measure_error(np.array([tiny]), np.array([-tiny])).max_ulp == 2.0


def test_elements_that_are_not_finite_have_to_agree() -> None:
    golden = np.array([[1.0, np.nan], [np.inf, -np.inf]])
    assert measure_error(golden.copy(), golden).not_finite_mismatches == 0
    found = np.array([[1.0, np.nan], [-np.inf, 0.0]])
    m = measure_error(found, golden)
    assert (m.not_finite, m.not_finite_mismatches, m.first_not_finite) == (3, 2, (1, 0))
    assert [b.metric for b in find_breaches(m, {"max_abs": 1e9})] == ["not_finite_mismatches"]


def test_large_numbers_do_not_overflow() -> None:
    golden = np.array([1e300, -1e300])
    m = measure_error(golden * 1.5, golden)
    assert m.cosine == pytest.approx(1.0)
    assert m.relative_euclidean == pytest.approx(0.5)


@pytest.mark.parametrize(("found", "cosine"), [(0.0, 1.0), (1.0, 0.0)])
def test_zeros(found: float, cosine: float) -> None:
    golden = np.zeros(3, np.float32)
    m = measure_error(np.full(3, found, np.float32), golden)
    assert m.cosine == cosine
    assert bool(find_breaches(m)) is bool(found)


def test_shapes_types_and_empty_arrays() -> None:
    assert "shape" in measure_error(np.zeros((2, 3)), np.zeros((3, 2))).problem
    assert "type" in measure_error(np.zeros(3, np.int64), np.zeros(3)).problem
    assert find_breaches(measure_error(np.zeros(1), np.zeros(2)))
    assert not find_breaches(measure_error(np.zeros((0, 2)), np.zeros((0, 2))), {"max_ulp": 1.0})


def test_integers_words_and_complex_numbers() -> None:
    assert find_breaches(measure_error(np.array([1, 2]), np.array([1, 3])))
    assert not find_breaches(measure_error(np.array([True]), np.array([True])))
    words = np.array(["a", "b"], object)
    assert measure_error(np.array(["a", "c"], object), words).mismatches == 0.5
    values = np.array([1 + 2j, 3 - 1j])
    assert not find_breaches(measure_error(values, values))
    assert find_breaches(measure_error(values.conj(), values))


def test_limits_are_read_and_refused() -> None:
    assert parse_limits(()) is None
    chosen = parse_limits(("ascend", "cosine=0.5"))
    assert chosen is not None
    assert (chosen["cosine"], chosen["relative_euclidean"]) == (0.5, 0.05)
    assert limits_for("int32") == {"mismatches": 0.0, "not_finite_mismatches": 0.0}
    for text in ("cosin=1", "cosine=x", "ascent"):
        with pytest.raises(OptionError):
            parse_limits((text,))


@pytest.mark.parametrize("reference", ["auto", "ort", "onnx"])
def test_references_agree(reference: str) -> None:
    if reference == "ort":
        pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    golden = run_golden(with_outputs(layer_model(), ["h"]), {"x": x}, reference)
    assert set(golden.values) == {"y", "h"}
    reports = verify_outputs({"y": run_layer(x), "h": golden.values["h"]}, golden)
    assert passed(reports)


def test_references_that_cannot() -> None:
    with pytest.raises(OptionError, match="nonsense"):
        run_golden(layer_model(), {}, "nonsense")
    model = layer_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedError):
        run_golden(model, {"x": np.zeros((2, 4), np.float32)}, "onnx")


def test_outputs_match_by_name_or_position() -> None:
    golden = Golden(source="here", values={"a": np.ones(2), "b": np.zeros(2)})
    assert passed(verify_outputs({"b": np.zeros(2), "a": np.ones(2)}, golden))
    assert passed(verify_outputs({"p": np.ones(2), "q": np.zeros(2)}, golden))
    with pytest.raises(InputError, match="b of the golden"):
        verify_outputs({"a": np.ones(2)}, golden)


def test_cutting_keeps_what_each_stretch_means() -> None:
    model = chain(["Relu", "Tanh"])
    feeds = feeds_of(model)
    golden = run_golden(with_outputs(model, ["m0", "a0", "m1"]), feeds, "onnx").values
    cut = cut_at(model, ["a0"], golden)
    shifted = {**feeds, given_name("a0"): golden["a0"] + 1}
    found = run_golden(cut, shifted, "onnx").values
    np.testing.assert_array_equal(found["a0"], golden["a0"])
    weight = numpy_helper.to_array(model.graph.initializer[1])
    np.testing.assert_allclose(found["a1"], np.tanh((golden["a0"] + 1) @ weight), rtol=1e-5)
    onnx.checker.check_model(cut)


def test_slices_run_alone() -> None:
    model = chain(["Relu", "Tanh", "Neg"])
    feeds = feeds_of(model)
    names = ["m0", "a0", "m1", "a1", "m2"]
    golden = {**run_golden(with_outputs(model, names), feeds, "onnx").values, **feeds}
    part = slice_nodes(model, [2, 3], golden)
    onnx.checker.check_model(part)
    assert [v.name for v in part.graph.input] == ["a0"]
    assert [v.name for v in part.graph.output] == ["a1"]
    assert [t.name for t in part.graph.initializer] == ["w1"]
    found = run_golden(part, {"a0": golden["a0"]}, "onnx").values
    np.testing.assert_array_equal(found["a1"], golden["a1"])


def test_a_right_program_is_right_everywhere() -> None:
    model = chain(["Relu", "Sigmoid", "Tanh"])
    found = verify_layers(model, feeds_of(model), recipe=RECIPE)
    assert (found.first_own, found.first_accumulated, found.notes) == (None, None, ())
    assert [layer.value for layer in found.layers] == ["m0", "a0", "m1", "a1", "m2", "a2"]
    assert {layer.place for layer in found.layers} == {"memory", "output"}
    assert all(layer.own is not None for layer in found.layers)
    last = found.layers[-1]
    assert last.group
    assert "act2" in last.group


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_wrong_operator(monkeypatch, "Sigmoid")
    model = chain(["Relu", "Sigmoid", "Tanh"])
    found = verify_layers(model, feeds_of(model), recipe=RECIPE)
    assert found.first_own == "a1"
    assert found.first_accumulated == "a1"
    wrong = [layer.node for layer in found.layers if layer.own_breaches]
    assert wrong == ["act1"]
    later = found.layers[-1]
    assert later.breaches
    assert not later.own_breaches


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the compilations of recipes from here on."""
    seen: list[int] = []
    plain = Recipe.compile

    def compile_counted(self: Recipe, *given: Any, **more: Any) -> Any:
        seen.append(1)
        return plain(self, *given, **more)

    monkeypatch.setattr(Recipe, "compile", compile_counted)
    return seen


def test_all_values_take_two_compilations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = biased_chain(3), counted(monkeypatch)
    found = verify_layers(model, feeds_of(model), recipe=RECIPE)
    assert len(seen) == 2
    assert {layer.place for layer in found.layers} == {"memory", "output"}
    assert all(layer.own is not None and layer.accumulated is not None for layer in found.layers)
    assert max(x.accumulated.max_scaled for x in found.layers if x.accumulated) < 1e-5


def test_more_operators_than_runs_take_one_compilation_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seen = biased_chain(3), counted(monkeypatch)
    monkeypatch.setattr("whet.measure.accuracy.stretches.MOST_RUNS", 0)
    plant_wrong_operator(monkeypatch, "Tanh")
    found = verify_layers(model, feeds_of(model), recipe=RECIPE)
    assert len(seen) == 3
    assert [x.value for x in found.layers if x.own_breaches] == ["a0", "a1", "a2"]
    assert all(layer.accumulated is not None for layer in found.layers)


def test_a_wrong_fusion_is_the_fault_of_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators by themselves are right; the kernel that takes them together is not."""
    model = biased_chain(5)
    plant_wrong_rewrite(monkeypatch, "fold_scale", spoil_gemm, 3)
    found = verify_layers(model, feeds_of(model), recipe=RECIPE)
    (wrong,) = [layer for layer in found.layers if layer.own_breaches]
    assert wrong.place == "memory" and "act2" in wrong.group
    assert found.first_own == found.first_accumulated == wrong.value
    assert found.layers[-1].breaches and not found.layers[-1].own_breaches


def test_what_fusion_adds_is_added_to_golden_results() -> None:
    own, kept, alone = (
        np.array(v, np.float32) for v in ([1, 2, 3], [5, np.nan, 7], [4, np.nan, 7])
    )
    assert np.array_equal(with_fusion(own, kept, alone), np.array([2, 2, 3], np.float32))
    wide = with_fusion(own[:2], np.array([np.inf, 1], np.float32), np.array([np.inf, np.nan]))
    assert wide[0] == 1 and np.isnan(wide[1])


def test_recipe_is_read_from_a_compiled_file(tmp_path: Path) -> None:

    folder = tmp_path
    path = write_layer(folder / "m.onnx")
    recipe = Recipe(Options(threads=1, opt_level=1, passes={"fold_pad": False}), {"x": (2, 4)})
    metadata = recipe.compile(path).metadata
    found = recipe_of(metadata, path)
    assert found.options.as_dict() == recipe.options.as_dict()
    assert found.shapes == {"x": (2, 4)}
    other = write_layer(folder / "other.onnx", batch=3)
    with pytest.raises(ArtifactError, match="another model"):
        recipe_of(metadata, other)


def test_files_that_are_no_models(tmp_path: Path) -> None:

    folder = tmp_path
    (folder / "bad.onnx").write_bytes(b"rubbish")
    for name in ("bad.onnx", "missing.onnx"):
        with pytest.raises(ModelError):
            read_proto(folder / name)


def biased_chain(layers: int) -> onnx.ModelProto:
    """Return products with biases, which ``fold_scale`` turns into Gemm, and Tanh between."""
    model = chain(["Tanh"] * layers)
    nodes = []
    for number in range(layers):
        matmul, tanh = model.graph.node[2 * number : 2 * number + 2]
        bias = np.linspace(-1, 1, 8, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(bias, f"b{number}"))
        add = helper.make_node("Add", [f"m{number}", f"b{number}"], [f"s{number}"])
        tanh.input[0] = f"s{number}"
        nodes += [matmul, add, tanh]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def spoil_gemm(graph: ir.Graph, node: ir.Node) -> None:
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.5)


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

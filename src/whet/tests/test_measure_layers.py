"""Verification layer by layer: where an error is said to arise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from whet.measure.accuracy.graphs import (
    cut_at,
    given_name,
    slice_nodes,
    with_outputs,
)
from whet.measure.accuracy.layers import verify_layers
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reference import run_golden
from whet.measure.accuracy.stretches import with_fusion
from whet.options import Options
from whet.tests.chain_models import biased_chain, chain, feeds_of, spoil_gemm
from whet.tests.faulty import plant_wrong_operator, plant_wrong_rewrite

RECIPE = Recipe(Options(threads=1))


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

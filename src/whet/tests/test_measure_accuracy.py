"""Metrics with known answers, limits, references and recipes."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from whet.errors import ArtifactError, InputError, ModelError, OptionError, UnsupportedError
from whet.measure.accuracy.graphs import (
    read_proto,
    with_outputs,
)
from whet.measure.accuracy.limits import find_breaches, limits_for, parse_limits
from whet.measure.accuracy.metrics import measure_error
from whet.measure.accuracy.recipe import Recipe, recipe_of
from whet.measure.accuracy.reference import Golden, run_golden
from whet.measure.accuracy.verify import passed, verify_outputs
from whet.options import Options
from whet.tests.small_models import layer_model, run_layer, write_layer

RECIPE = Recipe(Options(threads=1))


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


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
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

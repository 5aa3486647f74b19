"""Products in the bodies of If, Loop and Scan are quantised, and computed as ONNX Runtime does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import InputError, ModelError, UnsupportedError
from whet.frontend.load import load_model
from whet.passes.pipeline import run_passes
from whet.quantize.bodies import name_body_values
from whet.quantize.body_runs import BodyRuns
from whet.quantize.convert import convert_weights
from whet.quantize.static import Request
from whet.quantize.weights import WeightConfig
from whet.tests.body_models import (
    BOOL,
    BOTH,
    FLOAT,
    INT64,
    MODELS,
    NODE,
    RNG,
    X,
    agree,
    body_of,
    branches,
    model_of,
    nested,
    operators,
    plain_ort,
    square,
)


@pytest.mark.parametrize("config", [{}, {"rounding": "gptq", "bias_correction": True},
                                    {"activations": "int8", "per_channel": False}])  # fmt: skip
@pytest.mark.parametrize("name", MODELS)
def test_products_in_bodies_are_done_in_integers(name: str, config: dict[str, Any]) -> None:
    model, data, x, layers = MODELS[name]
    made = whet.quantize(model, data, config=config)
    assert set(made.report.quantized) == layers
    assert made.report.skipped == ()
    found = operators(made.model)
    assert found & {"MatMulInteger", "ConvInteger"}
    assert not found & {"MatMul", "Gemm", "Conv"}
    agree(made.model, model, x, 0.1)


@pytest.mark.parametrize("form", ["dequantize", "matmulnbits", "integer rows"])
@pytest.mark.parametrize("method", ["nearest", "gptq", "awq"])
@pytest.mark.parametrize("name", ["branches", "scan", "nested"])
def test_weights_in_bodies_have_few_bits(name: str, method: Any, form: str) -> None:
    model, data, x, layers = MODELS[name]
    rows = form == "integer rows"
    how = WeightConfig(
        method=method, form="dequantize" if form == "dequantize" else "matmulnbits",
        integer_rows=rows,
    )  # fmt: skip
    made = convert_weights(Request(model, None if method == "nearest" else data), how)
    assert made.report.converted == len(layers)
    assert made.report.floats == {}
    program, before = whet.compile(made.model), whet.compile(model)
    found = program({"x": x})["y"]
    right = plain_ort(made.model, x)
    assert np.abs(found - right).max() < (0.1 if rows else 1e-5) * np.abs(right).max()
    if form != "dequantize":
        assert program.stats.weight_bytes < 0.25 * before.stats.weight_bytes
        kinds = {launch.kernel.split("_")[0] for launch in program.program.launches}
        assert kinds & ({"blockproduct"} if rows else {"dequantizedproduct"})
    float_y = plain_ort(model, x)
    assert np.linalg.norm(found - float_y) < 0.4 * np.linalg.norm(float_y)


@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
def test_bodies_share_a_weight_in_few_bits(form: Any) -> None:
    """As branches of a decoder with and without a cache do; two products of a graph do so, too."""
    how = WeightConfig(form=form)
    made = convert_weights(Request(branches()), how).model
    graphs = ir.from_proto(made).graphs()
    numbers = [name for graph in graphs for name in graph.initializers if "_q" in name]
    assert len(numbers) == (2 if form == "matmulnbits" else 3)
    default = onnxruntime.InferenceSession(made.SerializeToString())
    for x in (np.abs(X), -np.abs(X)):
        found, right = whet.compile(made)({"x": x})["y"], plain_ort(made, x)
        assert np.abs(found - right).max() < 1e-5 * np.abs(right).max() + 1e-6
        assert (
            np.abs(default.run(None, {"x": x})[0] - right).max() < 0.1 * np.abs(right).max() + 0.1
        )


def test_products_that_others_made_of_integers_run_in_bodies() -> None:
    """As ``quantize_dynamic`` of ONNX Runtime writes them."""
    body = body_of(
        [NODE("DynamicQuantizeLinear", ["xi"], ["q", "s", "z"]),
         NODE("MatMulInteger", ["q", "v", "z"], ["p"]), NODE("Cast", ["p"], ["f"], to=1),
         NODE("Mul", ["s", "vs"], ["t"]), NODE("Mul", ["f", "t"], ["xo"]),
         NODE("Identity", ["c"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, ["n", 64])],
        [("co", BOOL, []), ("xo", FLOAT, ["n", 64])],
    )  # fmt: skip
    constants = {"v": RNG.integers(-127, 127, (64, 64)).astype(np.int8), "vs": 0.002, "k": 3}
    nodes = [NODE("Loop", ["k", "", "x"], ["y"], body=body, name="loop")]
    model = model_of(nodes, constants, ["n", 64], ["n", 64])
    found, right = whet.compile(model)({"x": X})["y"], plain_ort(model, X)
    assert np.abs(found - right).max() < 0.01 * np.abs(right).max()


def test_every_trip_is_looked_at() -> None:
    model = load_model(nested())
    name_body_values(model)
    ops = {n.name: n for n in model.graph.all_nodes()}
    given = [value for name in ("outer", "inner") for value in ops[name].inputs[:1]]
    wanted = {str(value.name) for value in given if value is not None}
    runs = list(BodyRuns(model, wanted, whet.Options(threads=1)).run({"x": X}))
    seen = [set(values) for values in runs if values]
    assert len(seen) == 3 * (1 + 2)
    outer = [values for values in runs if "xi" in values]
    assert np.array_equal(outer[0]["xi"], X)
    inner = [v for values in runs for n, v in values.items() if n != "xi"]
    w, v = square().astype(np.float32), square(1).astype(np.float32)
    carried, x = X @ w, X
    assert np.allclose(inner[0], carried + x, atol=1e-5)
    assert np.allclose(inner[1], (carried + x) @ v + x, atol=1e-5)
    assert np.allclose(outer[1]["xi"], np.tanh(inner[1] @ v), atol=1e-5)


def test_what_never_ran_stays_in_float() -> None:
    """Of what the other branch reads the range is known: it is made in front of the If."""
    left = {("step", "MatMul", "its body never ran on the calibration data")}
    for config in ({}, {"smooth": 0.5, "rounding": "adaptive", "bias_correction": True}):
        made = whet.quantize(branches(), -np.abs(X), config=config)
        assert set(made.report.quantized) == {"first", "other"}
        assert {(s.name, s.op, s.why) for s in made.report.skipped} == left
        agree(made.model, branches(), -np.abs(X), 0.05)
        found = whet.compile(made.model)({"x": np.abs(X)})["y"]
        assert np.allclose(found, plain_ort(made.model, np.abs(X)), atol=1e-5)
    with pytest.raises(UnsupportedError, match=r"nothing in the model can be .*never ran"):
        whet.quantize(loop_of_no_trips(), X)


def loop_of_no_trips() -> onnx.ModelProto:
    model = nested()
    next(t for t in model.graph.initializer if t.name == "yes").CopyFrom(
        numpy_helper.from_array(np.array(False), "yes")
    )
    return model


def test_a_value_in_a_body_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity in") as caught:
        whet.quantize(overflowing(), np.full((4, 64), 1e30, np.float32))
    assert caught.value.where


def overflowing() -> onnx.ModelProto:
    body = body_of(
        [NODE("Mul", ["xi", "xi"], ["s"]), NODE("MatMul", ["s", "v"], ["xo"], name="step"),
         NODE("Identity", ["c"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, None)],
        [("co", BOOL, []), ("xo", FLOAT, None)],
    )  # fmt: skip
    nodes = [NODE("Loop", ["k", "", "x"], ["y"], body=body, name="loop")]
    return model_of(nodes, {"v": square(), "k": 1}, ["n", 64], ["n", 64])


def test_a_target_puts_products_in_bodies_back() -> None:
    made = whet.quantize(
        nested(), X, config={"calibrator": "minmax"}, max_drop="0.02%", metric="cosine"
    )
    target = made.report.target
    assert target is not None
    assert made.report.floats == ("inner",)
    assert target.drop <= 2e-4
    agree(made.model, nested(), X, 0.05)


def test_an_interrupted_calibration_goes_on(tmp_path: Path) -> None:
    model, data, _, _ = MODELS["branches"]
    config = {"batch": 4, "rounding": "gptq"}
    whole = whet.quantize(model, data, config=config)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    many = [*data, *data, *data, *data, *data]
    with pytest.raises(KeyboardInterrupt):
        whet.quantize(model, many, config=config, state=tmp_path, progress=stop)
    again = whet.quantize(model, many, config=config, state=tmp_path)
    once = whet.quantize(model, many, config=config)
    assert again.model.SerializeToString() == once.model.SerializeToString()
    assert whole.report.samples < once.report.samples
    other = branches()
    for attribute in other.graph.node[-1].attribute:
        if attribute.name == "else_branch":
            attribute.g.node[-1].op_type = "Abs"
    with pytest.raises(ModelError, match="of another model"):
        whet.quantize(other, many, config=config, state=tmp_path)


def test_products_of_two_activations_are_asked_for() -> None:
    body = body_of(
        [NODE("Transpose", ["xi"], ["t"]), NODE("MatMul", ["xi", "t"], ["p"], name="p"),
         NODE("MatMul", ["p", "v"], ["xo"], name="step"), NODE("Identity", ["c"], ["co"])],
        [("i", INT64, []), ("c", BOOL, []), ("xi", FLOAT, [64, 64])],
        [("co", BOOL, []), ("xo", FLOAT, [64, 64])],
    )  # fmt: skip
    nodes = [NODE("Loop", ["k", "", "x"], ["y"], body=body, name="loop")]
    model = model_of(nodes, {"v": square(), "k": 1}, [64, 64], [64, 64])
    x = RNG.standard_normal((64, 64)).astype(np.float32)
    assert set(whet.quantize(model, x).report.quantized) == {"step"}
    made = whet.quantize(model, x, config={"activation_products": True})
    assert set(made.report.quantized) == {"p", "step"}
    assert "MatMul" not in operators(made.model)


@pytest.mark.parametrize("mode", ["static", "weights", "float16"])
def test_every_mode_lists_what_it_leaves(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(branches(), "m.onnx")
    np.save("x.npy", -np.abs(X))
    data = "" if mode == "weights" else "--calibration x.npy"
    skip = "" if mode == "float16" else "--skip other"
    line = f"quantize m.onnx --mode {mode} {data} {skip} -o o.onnx"
    assert run_command([*line.split(), "--json"]) == exits.OK
    facts: Any = json.loads(capsys.readouterr().out)
    if mode == "static":
        assert facts["floats"] == ["other"]
        assert [s["name"] for s in facts["skipped"]] == ["step"]
    elif mode == "weights":
        assert facts["floats"] == {"other": "it is to be left alone"}
        assert facts["converted"] == 2
    else:
        assert facts["floats"]["step"] == "it is in a body of the If branch"


def test_weights_of_bodies_go_beside_large_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = whet.quantize(nested(), X)
    assert made.report.bytes_after > 2 * 64 * 64
    monkeypatch.setattr("whet.graph.save.LARGE_BYTES", 2 * 64 * 64)
    made.save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size >= 2 * 64 * 64
    found, right = (whet.compile(m)({"x": X})["y"] for m in (tmp_path / "m.onnx", made.model))
    assert np.array_equal(found, right)


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_rewrites_in_bodies_are_counted(limit: int) -> None:
    """Otherwise ``whet bisect`` could not find the one that is wrong."""
    graph = load_model(whet.quantize(branches(), BOTH).model)
    run_passes(graph, opt_level=3, switches={"multiply_in_integers": limit})
    operators = [node.op_type for node in graph.graph.all_nodes()]
    assert operators.count("MatMulInteger") == limit
    assert operators.count("MatMul") == 3 - limit

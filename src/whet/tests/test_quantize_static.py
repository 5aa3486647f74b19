"""Static quantisation: what is written, what it computes, and that every setting does something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import ArtifactError, InputError, ModelError, OptionError, UnsupportedError
from whet.tests.quantized_models import build, norm_net, residual_net, uneven_chain
from whet.tests.test_lower_attention import attention_model

Array = np.ndarray[Any, Any]


def data(seed: int = 0, n: int = 24) -> Array:
    return np.random.default_rng(seed).standard_normal((n, 3, 9, 7)).astype(np.float32)


def error(made: Any, model: onnx.ModelProto, x: Array) -> float:
    found, right = (whet.compile(m)({"x": x})["y"] for m in (made.model, model))
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return residual_net(np.random.default_rng(0))


def test_the_graph_keeps_eight_bits_between_layers(net: onnx.ModelProto) -> None:
    made = whet.quantize(net, data())
    onnx.checker.check_model(made.model, full_check=True)
    graph = made.model.graph
    assert made.model.opset_import[0].version >= 21
    writers = {name: node for node in graph.node for name in node.output}
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "Add", "GlobalAveragePool")]
    assert len(layers) == 6
    for node in layers:
        assert [writers[name].op_type for name in node.input] == ["DequantizeLinear"] * len(
            node.input
        )
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in (n for n in layers if n.op_type in ("Conv", "Gemm")):
        x, w, b = (writers[name] for name in node.input)
        assert constants[w.input[0]].dtype == np.int8
        assert constants[b.input[0]].dtype == np.int32
        assert constants[x.input[2]].dtype == np.uint8
        scales = constants[x.input[1]] * constants[w.input[1]]
        assert scales.size == constants[b.input[0]].size
        assert np.allclose(constants[b.input[1]], scales, rtol=1e-6)
    pool = next(n for n in graph.node if n.op_type == "MaxPool")
    after = next(n for n in graph.node if n.input[0] == pool.output[0])
    before = writers[pool.input[0]]
    assert after.op_type == "QuantizeLinear"
    assert constants[after.input[1]] == constants[before.input[1]]
    assert error(made, net, data(1)) < 0.03
    assert made.report.bytes_after < 0.5 * made.report.bytes_before


@pytest.mark.peer
def test_onnx_runtime_computes_the_same(net: onnx.ModelProto) -> None:
    ort = pytest.importorskip("onnxruntime")
    for config in ({}, {"activations": "int8", "activations_symmetric": True}):
        made = whet.quantize(net, data(), config=config)
        x = data(2, 5)
        session = ort.InferenceSession(made.model.SerializeToString())
        (theirs,) = session.run(None, {"x": x})
        ours = whet.compile(made.model)({"x": x})["y"]
        right = whet.compile(net)({"x": x})["y"]
        assert np.abs(ours - theirs).max() < 0.25 * np.abs(theirs - right).max()


def test_every_setting_changes_what_it_says(net: onnx.ModelProto) -> None:
    x = data()

    def scales(**config: Any) -> dict[str, Array]:
        model = whet.quantize(net, x, config=config).model
        return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}

    plain = scales()
    assert plain["w2_scale"].shape == (8,)
    assert scales(per_channel=False)["w2_scale"].shape == ()
    assert scales(activations="int8")["x_zero"].dtype == np.int8
    assert scales(activations="uint8", activations_symmetric=True)["x_zero"] == 128
    assert scales(weights_symmetric=False, weights="uint8")["w2_zero"].any()
    searched = scales(weight_search=True, weights="int4")["w2_scale"]
    assert (searched <= scales(weights="int4")["w2_scale"]).all()
    assert (searched < scales(weights="int4")["w2_scale"]).any()
    assert "w2" in scales(layers={"conv2": "float"})
    assert "w2" in scales(skip_ops=["Conv"])
    assert scales(calibrator="minmax")["x_scale"] > scales(calibrator="percentile",
                                                          percentile=90)["x_scale"]  # fmt: skip
    fewer = scales(calibrator="minmax", samples=8)["x_scale"]
    assert fewer < scales(calibrator="minmax")["x_scale"]
    for name, array in scales().items():
        assert np.array_equal(array, plain[name])  # the same again


def test_rounding_and_bias_correction_lower_the_error(net: onnx.ModelProto) -> None:
    x, fresh = data(0, 64), data(3)
    low: dict[str, Any] = {"weights": "int4", "activations": "uint16"}
    variants: dict[str, dict[str, Any]] = {
        "nearest": {}, "gptq": {"rounding": "gptq"}, "adaptive": {"rounding": "adaptive"},
        "bias": {"bias_correction": True},
    }  # fmt: skip
    errors = {
        name: error(whet.quantize(net, x, config={**low, **more}), net, fresh)
        for name, more in variants.items()
    }
    assert errors["gptq"] < 0.8 * errors["nearest"]
    assert errors["adaptive"] < 0.8 * errors["nearest"]
    assert errors["bias"] < 0.9 * errors["nearest"]


def test_equalisation_balances_and_keeps_the_function() -> None:
    model = uneven_chain(np.random.default_rng(4))
    config = {"per_channel": False, "calibrator": "minmax"}
    plain = whet.quantize(model, data(), config=config)
    balanced = whet.quantize(model, data(), config={**config, "equalize": True})
    assert error(balanced, model, data(5)) < 0.3 * error(plain, model, data(5))


def test_smoothing_moves_an_outlier_channel() -> None:
    model = norm_net(np.random.default_rng(6))
    x = np.random.default_rng(7).standard_normal((32, 4, 16)).astype(np.float32)
    config = {"calibrator": "minmax"}
    plain = whet.quantize(model, x, config=config)
    smooth = whet.quantize(model, x, config={**config, "smooth": 0.5})
    assert error(smooth, model, x) < 0.6 * error(plain, model, x)
    gammas = [next(t for t in m.model.graph.initializer if t.name == "g") for m in (plain, smooth)]
    spread = [np.ptp(onnx.numpy_helper.to_array(g)) for g in gammas]
    assert spread[1] < 0.3 * spread[0]


def test_tables_are_stored_in_eight_bits() -> None:
    rng = np.random.default_rng(8)
    table, weight = rng.standard_normal((50, 16)), rng.standard_normal((16, 3))
    i = onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["n", 5])
    nodes = [
        onnx.helper.make_node("Gather", ["t", "i"], ["e"]),
        onnx.helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    model = build(nodes, {"t": table, "w": weight}, ["n"], ["n", 5, 3])
    model.graph.input[0].CopyFrom(i)
    ids = rng.integers(0, 50, (9, 5))
    made = whet.quantize(model, {"i": ids})
    kept = {t.name: t.data_type for t in made.model.graph.initializer}
    assert kept["t_q"] == onnx.TensorProto.INT8
    assert "t" not in kept
    alone = whet.quantize(model, {"i": ids}, config={"embeddings": False}).model
    assert {t.name: t.data_type for t in alone.graph.initializer}["t"] == onnx.TensorProto.FLOAT
    found, right = (whet.compile(m)({"i": ids})["y"] for m in (made.model, model))
    assert np.linalg.norm(found - right) < 0.02 * np.linalg.norm(right)


def test_odd_graphs() -> None:
    rng = np.random.default_rng(9)
    dead = rng.standard_normal((4, 3, 3, 3))
    dead[1] = 0
    bias = np.array([0.5, 1e4, 0, -1])
    nodes = [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    model = build(nodes, {"w": dead, "b": bias}, ["n", 3, 9, 7], ["n", 4, 7, 5])
    made = whet.quantize(model, data())
    found, right = (whet.compile(m)({"x": data()})["y"] for m in (made.model, model))
    assert np.allclose(found[:, 1], 1e4, rtol=1e-6)  # a bias far larger than the products
    live = (found - right)[:, [0, 2, 3]]
    assert np.linalg.norm(live) < 0.03 * np.linalg.norm(right[:, [0, 2, 3]])
    zeros = whet.quantize(model, np.zeros((4, 3, 9, 7), np.float32))
    assert np.isfinite(whet.compile(zeros.model)({"x": data(1)})["y"]).all()
    relu = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(UnsupportedError, match="nothing in the model can be quantised"):
        whet.quantize(build(relu, {}, ["n", 2], ["n", 2]), np.ones((1, 2), np.float32))


def test_calibration_goes_on_where_it_was(net: onnx.ModelProto, tmp_path: Path) -> None:
    calls = []

    def interrupted() -> Any:
        for number, sample in enumerate(data()):
            calls.append(number)
            if len(calls) == 21:
                raise KeyboardInterrupt
            yield sample

    config = {"batch": 1}
    with pytest.raises(KeyboardInterrupt):
        whet.quantize(net, interrupted, config=config, state=tmp_path)
    made = whet.quantize(net, interrupted, config=config, state=tmp_path)
    whole = whet.quantize(net, data(), config=config)
    assert made.model.SerializeToString(deterministic=True) == whole.model.SerializeToString(
        deterministic=True
    )
    with pytest.raises(ModelError, match="of another model or configuration"):
        whet.quantize(net, data(), config={"batch": 2}, state=tmp_path)
    for other in (data(1), data()[:8]):
        with pytest.raises(ModelError, match="of other data"):
            whet.quantize(net, other, config=config, state=tmp_path)
    more = np.concatenate([data(), data(1, 3)])
    assert whet.quantize(net, more, config=config, state=tmp_path).report.samples == len(more)
    with np.load(tmp_path / "calibration.npz") as file:
        kept = {name: file[name] for name in file.files if name != "done"}
    np.savez(tmp_path / "calibration.npz", **kept)
    with pytest.raises(ArtifactError, match="is incomplete"):
        whet.quantize(net, more, config=config, state=tmp_path)
    np.savez_compressed(tmp_path / "calibration.npz", key=np.zeros(4000))
    stream = bytearray((tmp_path / "calibration.npz").read_bytes())
    stream[40:60] = b"\xff" * 20
    (tmp_path / "calibration.npz").write_bytes(stream)
    with pytest.raises(ArtifactError, match="not a calibration state"):
        whet.quantize(net, more, config=config, state=tmp_path)


def test_scores_are_kept_for_the_same_data_alone(net: onnx.ModelProto, tmp_path: Path) -> None:
    metric = tmp_path / "m.py"
    metric.write_text("def f(outputs, references, labels):\n    return 1.0\n")
    kept = []
    for seed, text in [(0, "1.0"), (0, "1.0"), (1, "1.0"), (1, "0.5")]:
        metric.write_text(f"def f(outputs, references, labels):\n    return {text}\n")
        more: Any = {"metric": f"{metric}:f", "max_drop": 0.5, "evaluation": data(seed)}
        whet.quantize(net, data(), state=tmp_path, **more)
        kept.append(len(json.loads((tmp_path / "scores.json").read_text())))
    assert kept == [1, 1, 2, 3]


def test_bad_settings(net: onnx.ModelProto) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"calibrater": "mse"}, "unknown key 'calibrater'"),
        ({"calibrator": "kl"}, "there is no calibrator 'kl'"),
        ({"percentile": 20}, "percentile is 20"),
        ({"layers": {"conv9": "float"}}, "there is no layer 'conv9'"),
        ({"layers": {"conv1": "int3"}}, "Invalid enum value"),
        ({"smooth": 2.0}, "smooth is 2"),
        ({"seed": -1}, "seed is -1"),
    ]
    for config, message in cases:
        with pytest.raises(OptionError, match=message):
            whet.quantize(net, data(), config=config)
    given: Any = "mse"
    with pytest.raises(OptionError, match="a configuration is no str"):
        whet.quantize(net, data(), config=given)
    for source in (None, 3):
        with pytest.raises(InputError, match="is no calibration data"):
            whet.quantize(net, source)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="unknown option 'shape'"):
        whet.quantize(net, data(), shape={})


def test_values_that_are_not_finite_inside() -> None:
    weights = {"w": np.full((3, 4), 1e30), "v": np.full((4, 2), 1e30), "u": np.ones((2, 2))}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "v"], ["b"]),
        onnx.helper.make_node("MatMul", ["b", "u"], ["y"]),
    ]
    model = build(nodes, weights, ["n", 3], ["n", 2])
    with pytest.raises(InputError, match="computes NaN or infinity in 'b'"):
        whet.quantize(model, np.ones((2, 3), np.float32))


def test_the_command(
    net: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(net, "m.onnx")
    np.save("x.npy", data(0, 8))
    line = "quantize m.onnx --calibration x.npy --calibrator minmax --report r.json --json"
    assert run_command(line.split()) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "whet.quantize.1"
    assert facts["config"]["calibrator"] == "minmax"
    onnx.checker.check_model("m.int8.onnx")
    np.save("bad.npy", np.full((2, 3, 9, 7), np.inf, np.float32))
    for bad, code in [
        ("quantize m.onnx --calibration bad.npy -o n.onnx", exits.INPUT),
        ("quantize m.onnx --calibration none.npy -o n.onnx", exits.INPUT),
        ("quantize m.onnx -o n.onnx", exits.USAGE),
        ("quantize m.onnx --calibration x.npy -o no/n.onnx", exits.ARTIFACT),
        ("quantize m.onnx --calibration x.npy -o n.onnx --skip conv7", exits.USAGE),
        ("quantize m.onnx --calibration x.npy -o n.onnx --max-drop -1", exits.USAGE),
        ("quantize m.onnx --calibration x.npy -o n.onnx --max-drop 1% --metric f1", exits.USAGE),
        ("quantize m.onnx --calibration x.npy -o n.onnx --image scale", exits.USAGE),
    ]:
        assert run_command(bad.split()) == code
        assert not Path("n.onnx").exists()
        assert "error: [E" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "config", "products"),
    [(21, {}, 2), (21, {"activation_products": False}, 0), ("keys", {}, 0),
     ("keys", {"activation_products": True}, 2), (21, {"activations": "int16"}, 0)],
)  # fmt: skip
def test_attention_is_quantised_where_one_kernel_does_it(
    keys: int | str, config: dict[str, Any], products: int
) -> None:
    model = attention_model("float32", mask=True, nan_test=False, scaled_operands=False)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if isinstance(keys, str) and value.name != "q":
            dims[-1 if value.name == "mask" else -2].dim_param = keys
    rng = np.random.default_rng(5)
    shapes = {**dict.fromkeys("qkv", (8, 2, 21, 20)), "mask": (8, 1, 21, 21)}
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    config = {"batch": 1, **config}
    if not products:  # and there is no other layer
        with pytest.raises(whet.WhetError, match="nothing in the model can be quantised"):
            whet.quantize(model, feeds, config=config)
        return
    made = whet.quantize(model, feeds, config=config)
    assert list(made.report.quantized.values()).count("MatMul") == products
    one = {n: a[:1] for n, a in feeds.items()}
    compiled, right = whet.compile(made.model), whet.compile(model)(one)["y"]
    fused = [g for g in compiled.stats.groups if g.kernel.startswith("attention")]
    assert len(fused) == int(keys == 21)
    assert np.linalg.norm(compiled(one)["y"] - right) < 0.05 * np.linalg.norm(right)

"""Every option of ``whet quantize`` does what it says, and bad input leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.cli.quantize import command
from whet.errors import ArtifactError, InputError, OptionError, WhetError
from whet.tests.quantized_models import (
    build,
    function_net,
    norm_net,
    residual_net,
    uneven_chain,
)

Array = np.ndarray[Any, Any]
Constants = dict[str, Array]
Check = Callable[[Constants, Constants, dict[str, Any]], bool]
INT8 = onnx.TensorProto.INT8


def heavy_tailed(seed: int, n: int = 48) -> Array:
    """Return samples of few large values, on which calibrators differ."""
    x = np.random.default_rng(seed).standard_t(3, (n, 3, 9, 7))
    return x.astype(np.float32)


def dense_rows(seed: int, n: int = 2) -> Array:
    """Return samples for the network with a norm."""
    return np.random.default_rng(seed).standard_normal((n, 4, 16), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two models and their data."""
    made = tmp_path_factory.mktemp("options")
    onnx.save(residual_net(np.random.default_rng(0)), made / "m.onnx")
    onnx.save(norm_net(np.random.default_rng(1)), made / "n.onnx")
    onnx.save(uneven_chain(np.random.default_rng(5)), made / "e.onnx")
    onnx.save(function_net(np.random.default_rng(6)), made / "f.onnx")
    np.save(made / "x.npy", heavy_tailed(2))
    np.save(made / "h.npy", dense_rows(3, 24))
    np.save(made / "l.npy", dense_rows(7, 600))
    (made / "worst.py").write_text(WORST)
    (made / "count.py").write_text(COUNT)
    return made


WORST = """
import numpy as np

def worst(outputs, references, labels):
    return 1 - max(np.abs(outputs[n] - r).max() / np.abs(r).max() for n, r in references.items())
"""
"""A metric of one's own: one less the largest difference, as a share of the largest value."""


COUNT = """
def count(outputs, references, labels):
    return len(next(iter(outputs.values())))
"""
"""A metric that is the number of samples."""


def made_by(folder: Path, line: str, target: Path) -> tuple[Constants, dict[str, Any]]:
    """Run a command line and return the constants of its model, and its report."""
    report = target.with_suffix(".json")
    given = (".onnx", ".npy", ".py:worst", ".py:count")
    words = [str(folder / w) if w.endswith(given) else w for w in line.split()]
    code = run_command(["quantize", *words, "-o", str(target), "--report", str(report)])
    assert code == exits.OK
    graph = onnx.load(target).graph
    found = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    found["operators"] = np.array([n.op_type for n in graph.node])
    levels = [a.i for n in graph.node for a in n.attribute if a.name == "accuracy_level"]
    found["levels"] = np.array(levels)
    return found, json.loads(report.read_text())


CONV, DENSE = "m.onnx --calibration x.npy", "n.onnx --calibration h.npy"
CHAIN = "e.onnx --calibration x.npy --per-tensor"
WEIGHTS = "n.onnx --mode weights"


def narrower(plain: Constants, made: Constants, _: Any) -> bool:
    return bool(made["x_scale"] < plain["x_scale"])


def much_finer(plain: Constants, made: Constants, _: Any) -> bool:
    return bool(made["x_scale"] < plain["x_scale"] / 99)


def other_scale(plain: Constants, made: Constants, _: Any) -> bool:
    return bool(made["x_scale"] != plain["x_scale"])


def other_weights(plain: Constants, made: Constants, _: Any) -> bool:
    same = [k for k in made if k in plain and made[k].dtype.itemsize == 1 and made[k].ndim > 1]
    return bool(same) and any(not np.array_equal(made[k], plain[k]) for k in same)


def zero_points(name: str) -> Check:
    return lambda p, m, _: name not in p and bool(m[name].astype(np.int32).any())


def roundings(constants: Constants) -> int:
    return int((constants["operators"] == "QuantizeLinear").sum())


def halves(constants: Constants) -> int:
    return sum(a.dtype == np.float16 for a in constants.values())


def more_bytes(_: Constants, __: Constants, report: dict[str, Any]) -> bool:
    return bool(report["bytes_after"] > report["plain"]["bytes_after"])


OPTIONS: dict[str, tuple[str, str, Check]] = {
    **{
        name: (f"{CONV} --calibrator minmax", f"--calibrator {name}", narrower)
        for name in ("percentile", "mse", "entropy", "moving_average", "scale_search")
    },
    "minmax": (CONV, "--calibrator minmax", other_scale),
    "int8": (CONV, "--activations int8", lambda _, m, __: m["x_zero"].dtype == np.int8),
    "uint16": (CONV, "--activations uint16", much_finer),
    "symmetric": (CONV, "--symmetric", lambda p, m, _: p["r1_zero"] != m["r1_zero"] == 128),
    "per_tensor": (CONV, "--per-tensor", lambda p, m, _: p["w2_scale"].size > m["w2_scale"].size),
    "asymmetric": (CONV, "--asymmetric", zero_points("w2_zero")),
    "asymmetric weights": (WEIGHTS, "--asymmetric", zero_points("w1_zero")),
    "adaptive": (CONV, "--rounding adaptive", other_weights),
    "gptq": (CONV, "--rounding gptq", other_weights),
    "smooth": (DENSE, "--smooth 0.5", lambda p, m, _: np.ptp(m["g"]) < 0.5 * np.ptp(p["g"])),
    "equalize": (CHAIN, "--equalize", other_weights),
    "functions": (
        "f.onnx --calibration x.npy", "--functions",
        lambda p, m, _: roundings(m) == roundings(p) + 2),
    "bias_correction": (
        CONV, "--bias-correction", lambda p, m, _: any(
            p[k].dtype == np.int32 and not np.array_equal(p[k], m[k]) for k in p if k in m)),
    "skip": (CONV, "--skip conv2", lambda _, m, r: "w2" in m and "conv2" not in r["quantized"]),
    "samples": (f"{CONV} --calibrator minmax", "--samples 4", narrower),
    "samples of weights": (
        f"{WEIGHTS} --calibration h.npy --method gptq", "--samples 4", other_weights),
    "batch": (f"{CONV} --calibrator moving_average", "--batch 3", other_scale),
    "seed": (f"{CONV} --rounding gptq --batch 48", "--seed 5", other_weights),
    "seed of weights": (
        f"{WEIGHTS} --calibration l.npy --method gptq --batch 600 --samples 0", "--seed 5",
        other_weights),
    "batch of weights": (
        f"{WEIGHTS} --calibration l.npy --method gptq --samples 0", "--batch 600", other_weights),
    **{
        f"evaluation, {mode}": (
            f"{DENSE} --mode {mode} --max-drop 100% --metric count.py:count",
            "--evaluation l.npy",
            lambda _, __, r: (r["plain"]["target"]["float_value"], r["target"]["float_value"])
            == (24, 600))
        for mode in ("static", "float16", "bfloat16")
    },
    "bits": (WEIGHTS, "--bits 8", more_bytes),
    "block": (WEIGHTS, "--block 16", more_bytes),
    "method gptq": (WEIGHTS, "--calibration h.npy --method gptq", other_weights),
    "method awq": (WEIGHTS, "--calibration h.npy --method awq", other_weights),
    "form": (WEIGHTS, "--form matmulnbits", lambda _, m, __: "MatMulNBits" in m["operators"]),
    "mode float16": (
        DENSE, "--mode float16", lambda p, m, _: halves(m) > halves(p) == 0),
    "integer_rows": (f"{WEIGHTS} --form matmulnbits", "--integer-rows",
                     lambda p, m, _: m["levels"].tolist() == [4, 4] and not p["levels"].size),
    "mode bfloat16": (
        f"{DENSE} --mode bfloat16", "--max-drop 0.0002% --metric cosine",
        lambda _, __, r: r["plain"]["floats"] == {} and r["target"]["drop"] <= 2e-6
        and set(r["floats"].values()) == {"the target"} and r["converted"] > 0),
    "metric of one's own": (
        f"{DENSE} --max-drop 1% --metric cosine", "--max-drop 20% --metric worst.py:worst",
        lambda _, __, r: r["target"]["float_value"] == 1.0 and r["target"]["drop"] <= 0.2
        and r["target"]["drop"] > 5 * r["plain"]["target"]["drop"]),
    "finer": (
        f"{CHAIN} --calibrator minmax", "--max-drop 1% --metric cosine",
        lambda p, m, r: p["w1_scale"].shape == () and m["w1_scale"].shape == (8,)
        and "finer" in r["config"]["layers"].values()
        and any(t["step"] == "finer" and t["accepted"] for t in r["target"]["trials"])),
    "max_drop": (
        f"{DENSE} --calibrator minmax", "--max-drop 0.01% --metric cosine",
        lambda _, __, r: 0 < len(r["quantized"]) < 2 and r["target"]["drop"] <= 1e-4),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_does_what_it_says(name: str, folder: Path, tmp_path: Path) -> None:
    base, option, changed = OPTIONS[name]
    plain, before = made_by(folder, base, tmp_path / "plain.onnx")
    made, report = made_by(folder, f"{base} {option}", tmp_path / "made.onnx")
    assert changed(plain, made, {**report, "plain": before})


@pytest.mark.parametrize("parameter", command.params, ids=lambda p: p.name)
def test_every_option_is_in_a_test(parameter: click.Parameter) -> None:
    """One that is added needs a test that fails where it is ignored."""
    folder = Path(__file__).parent
    words = "".join(path.read_text() for path in sorted(folder.glob("test_quantize_*.py")))
    if isinstance(parameter, click.Option) and parameter.name != "traceback":
        assert any(re.search(rf"{name}(?![\w-])", words) for name in parameter.opts)


BAD: dict[str, tuple[str, Any, str]] = {
    "shape": ("m", np.zeros((4, 3, 9, 8), np.float32), ""),
    "nan": ("m", np.full((4, 3, 9, 7), np.nan, np.float32), ""),
    "infinity": ("m", np.full((4, 3, 9, 7), np.inf, np.float32), ""),
    "type": ("m", np.zeros((4, 3, 9, 7), complex), ""),
    "none": ("m", np.zeros((0, 3, 9, 7), np.float32), ""),
    "target": (
        "n",
        np.random.default_rng(9).standard_normal((2, 4, 16), np.float32),
        "--max-drop 0% --metric cosine",
    ),
    "metric": ("m", heavy_tailed(4), "--max-drop 1% --metric nowhere.py:f"),
    "layer": ("m", heavy_tailed(4), "--skip nothing"),
    "some NaN": (
        "m",
        np.where(np.arange(4 * 189).reshape(4, 3, 9, 7) == 700, np.nan, np.float32(1)).astype(
            np.float32
        ),
        "",
    ),
    "rows": ("n", np.zeros((2, 4, 16), np.float32), "--mode weights --integer-rows"),
    "bits of static": ("m", heavy_tailed(4), "--bits 4"),
    "rounding of weights": ("n", heavy_tailed(4), "--mode weights --rounding gptq"),
    "target of weights": ("n", heavy_tailed(4), "--mode weights --max-drop 1%"),
    "skip of floats": ("n", heavy_tailed(4), "--mode float16 --skip up"),
    "goal": ("m", heavy_tailed(4), "--goal speed"),
    "state": ("m", heavy_tailed(4), "--max-drop 1% --metric nowhere.py"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_and_no_file(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data, more = BAD[name]
    np.save(tmp_path / "x.npy", data)
    line = f"quantize {folder / model}.onnx --calibration {tmp_path / 'x.npy'} {more}"
    code = run_command([*line.split(), "-o", str(tmp_path / "o.onnx")])
    assert code in (exits.USAGE, exits.MODEL, exits.INPUT)
    words = capsys.readouterr().err
    assert words.count("error: [E") == 1
    assert "Traceback" not in words
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_an_empty_folder_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no data"):
        whet.quantize(folder / "m.onnx", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["zero", "constant"])
@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse", "entropy", "scale_search"])
def test_constant_channels_stay_what_they_are(kind: str, calibrator: str) -> None:
    rng = np.random.default_rng(6)
    w, b = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    w[1] = 0
    b[1] = 0 if kind == "zero" else 2.5
    nodes = [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    model = build(nodes, {"w": w, "b": b}, ["n", 3, 9, 7], ["n", 4, 7, 5])
    x = rng.standard_normal((16, 3, 9, 7)).astype(np.float32)
    x[:, 2] = 0 if kind == "zero" else 0.5
    made = whet.quantize(model, x, config={"calibrator": calibrator})
    found, right = (whet.compile(m)({"x": x})["y"] for m in (made.model, model))
    assert np.abs(found[:, 1] - b[1]).max() < 0.02
    assert np.linalg.norm(found - right) < 0.2 * np.linalg.norm(right)


def test_a_state_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "calibration.npz").write_bytes(b"nothing")
    with pytest.raises(WhetError):
        whet.quantize(folder / "m.onnx", heavy_tailed(8, 8), state=tmp_path)


@pytest.mark.parametrize("value", [3, b"x"])
@pytest.mark.parametrize("name", ["images", "options", "progress", "shapes", "state", "timer"])
def test_arguments_of_another_kind_are_refused_first(name: str, value: Any) -> None:
    """No model is looked for before: there is none."""
    kind = type(value).__name__
    with pytest.raises(OptionError, match=f"{name} is a {kind} at {name}\n  hint: "):
        whet.quantize("no model", heavy_tailed(4), **{name: value})


def test_a_state_without_a_name_is_refused() -> None:
    """It would be kept in the current folder."""
    with pytest.raises(OptionError, match="state is empty at state\n  hint: "):
        whet.quantize("no model", heavy_tailed(4), state="")


def test_keys_that_are_no_names_are_refused() -> None:
    unknown: Any = {3: 4}
    with pytest.raises(OptionError, match="unknown key 3"):
        whet.quantize("no model", heavy_tailed(4), config=unknown)
    with pytest.raises(ArtifactError, match="cannot create the folder of the state"):
        whet.quantize("no model", heavy_tailed(4), state="a\0b")

"""``whet quantize`` as a command: what it reads back, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits, quantize_timer
from whet.cli.main import run_command
from whet.quantize import body_runs, floats
from whet.quantize.measured import Timing
from whet.tests.documents import conform
from whet.tests.quantized_models import norm_net, residual_net


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with two models and their data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    onnx.save(residual_net(np.random.default_rng(0)), "m.onnx")
    onnx.save(norm_net(np.random.default_rng(1)), "n.onnx")
    np.save("x.npy", rng.standard_normal((8, 3, 9, 7)).astype(np.float32))
    np.save("h.npy", rng.standard_normal((8, 4, 16)).astype(np.float32))
    return tmp_path


def quantize(line: str) -> int:
    return run_command(["quantize", *line.split()])


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line that has to fail with one error, and return what it says."""
    capsys.readouterr()
    assert quantize(f"{line} -o o.onnx") in (exits.USAGE, exits.INPUT, exits.ARTIFACT)
    words = capsys.readouterr().err
    assert words.count("error: [E") == 1
    assert not Path("o.onnx").exists()
    return words


def test_a_report_can_be_given_back_as_the_configuration() -> None:
    first = "m.onnx --calibration x.npy --calibrator minmax --skip conv2 --symmetric"
    assert quantize(f"{first} -o a.onnx --report r.json") == exits.OK
    assert quantize("m.onnx --calibration x.npy --config r.json -o b.onnx") == exits.OK
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("n.onnx")
    model.graph.node[1].name, model.graph.node[3].name = "[/bold]", "[red]down"
    onnx.save(model, "b.onnx")
    line = "b.onnx --calibration h.npy --max-drop 0.01% --metric cosine --calibrator minmax"
    assert quantize(f"{line} -o o.onnx") == exits.OK
    printed = capsys.readouterr().out
    assert "[/bold]" in printed
    assert "[red]down" in printed


@pytest.mark.parametrize("place", ["x.npy", "x.npy/state"])
def test_a_state_needs_a_folder(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = refusal(f"m.onnx --calibration x.npy --state {place}", capsys)
    assert "cannot create the folder of the state" in words


def test_evaluation_is_what_the_metric_is_measured_on() -> None:
    x = np.load("x.npy")[:4]
    right = whet.compile("m.onnx")({"x": x})["y"].argmax(axis=1)
    wrong = np.where(np.arange(4) < 2, right, (right + 1) % 5)
    np.savez("wrong.npz", x=x, labels=wrong)
    line = "m.onnx --calibration x.npy --max-drop 100% --json -o o.onnx --report r.json"
    values = []
    for more in ("", "--evaluation wrong.npz"):
        assert quantize(f"{line} {more}") == exits.OK
        values.append(json.loads(Path("r.json").read_text())["target"]["float_value"])
    assert values == [1.0, 0.5]


@pytest.mark.parametrize("mode", ["", "--mode float16", "--mode weights --method gptq"])
def test_threads_and_samples_reach_the_calibration(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Counting:
        def __init__(self, program: Any) -> None:
            self.program = program

        def run(self, feeds: Any) -> Any:
            seen.append(len(feeds["x"]))
            return self.program.run(feeds)

    def compiling(model: Any, options: Any) -> Any:
        assert options.threads == 1
        return Counting(compile_model(model, options=options))

    module = floats if "float16" in mode else body_runs
    compile_model = module.compile_model
    monkeypatch.setattr(module, "compile_model", compiling)
    line = f"n.onnx {mode} --calibration h.npy --threads 1 --samples 5 --batch 3 -o o.onnx"
    assert quantize(line) == exits.OK
    assert seen == [3, 2]


@pytest.mark.parametrize(
    "mode", ["--calibration x.npy", "--mode bfloat16", "--mode weights --block 16"]
)
def test_shape_fixes_an_input(mode: str) -> None:
    assert quantize(f"m.onnx {mode} --shape x:4,3,9,7 -o o.onnx") == exits.OK
    given = onnx.load("o.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in given] == [4, 3, 9, 7]


@pytest.mark.parametrize("goal", ["speed", "accuracy"])
def test_the_goal_reaches_the_choice(goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_size(self: Any, first: Any, second: Any) -> Timing:
        a, b = (
            50.0 - sum(node.op_type == "QuantizeLinear" for node in model.graph)
            for model in (first, second)
        )
        return Timing(a / 1e3, b / 1e3, b / a, a != b)

    monkeypatch.setattr(quantize_timer.GraphTimer, "__call__", by_size)
    line = "m.onnx --calibration x.npy --measured --metric cosine -o o.onnx --report r.json"
    assert quantize(f"{line} --goal {goal}") == exits.OK
    measured = json.loads(Path("r.json").read_text())["measured"]
    (chosen,) = [p for p in measured["points"] if p["chosen"]]
    best = min(measured["points"], key=lambda p: p["time_ratio"])
    assert measured["goal"] == goal
    assert (chosen == best) == (goal == "speed")


ALONE = {
    "m.onnx --calibration x.npy --metric cosine": "--metric changes nothing alone",
    "m.onnx --calibration x.npy --evaluation x.npy": "--evaluation changes nothing alone",
    "m.onnx --calibration x.npy --goal speed": "--goal changes nothing alone",
    "n.onnx --mode float16 --samples 3": "--samples changes nothing alone",
    "n.onnx --mode weights --batch 3": "--batch changes nothing alone",
    "n.onnx --mode weights --image scale=1": "--image changes nothing alone",
    "n.onnx --mode weights --calibration h.npy": "rounded to the nearest",
    "n.onnx --mode weights --config r.json": "--config changes nothing with --mode weights",
    "n.onnx --mode float16 --seed 3": "--seed changes nothing with --mode float16",
}


@pytest.mark.parametrize("line", ALONE)
def test_options_that_would_change_nothing_are_refused(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ALONE[line] in refusal(line, capsys)


LINES = {
    "static": "m.onnx --calibration x.npy",
    "weights": "n.onnx --mode weights",
    "float16": "n.onnx --mode float16 --calibration h.npy --max-drop 1%",
    "bfloat16": "n.onnx --mode bfloat16",
}


@pytest.mark.parametrize("mode", LINES)
def test_every_mode_prints_the_form_that_the_schema_has(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(f"{LINES[mode]} -o o.onnx --json --report r.json") == exits.OK
    text = capsys.readouterr().out
    assert conform(text)["model"] == LINES[mode].split()[0]
    assert json.loads(Path("r.json").read_text()) == json.loads(text)


CONFIGS = {
    "no.json": b"[1, 2]",
    "cut.json": b'{"batch": 4',
    "bytes.json": b'{"bat\xb3h": 4}',
    "deep.json": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep_amct.json": b'{"do_fusion": true, "l": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
    "deep.cfg": b"common_config {" * 5000 + b"}" * 5000,
    "infinite.cfg": b"batch_num: inf",
    "type.json": b'{"batch": "many"}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_configurations_are_one_error(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(CONFIGS[name])
    assert name in refusal(f"m.onnx --calibration x.npy --config {name}", capsys)


@pytest.mark.parametrize("content", [b"\xb3", b'{"\xb3": [1, 2]}', b"[1]", b"{", b""])
def test_damaged_scores_are_one_error(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    line = "m.onnx --calibration x.npy --state s --max-drop 5% --metric cosine"
    assert quantize(f"{line} -o first.onnx") == exits.OK
    Path("s/scores.json").write_bytes(content)
    assert "delete it and start again" in refusal(line, capsys)


@pytest.mark.parametrize("label", [5, -1, 0.5, np.nan, "cat"])
def test_labels_that_are_no_classes_are_refused(
    label: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("x.npz", x=np.load("x.npy"), labels=np.full(8, label))
    words = refusal("m.onnx --calibration x.npz --max-drop 1%", capsys)
    assert "labels are not numbers of classes from 0 to 4" in words


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "def f(*given):\n    raise SystemExit(0)"])
def test_a_metric_cannot_end_the_command(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(body)
    words = refusal("m.onnx --calibration x.npy --max-drop 1% --metric own.py:f", capsys)
    assert "SystemExit" in words


def test_a_metric_cannot_change_what_it_compares(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("def f(outputs, references, labels):\n    references['y'][:] = 0\n")
    words = refusal("m.onnx --calibration x.npy --max-drop 1% --metric own.py:f", capsys)
    assert "read-only" in words


def test_the_report_does_not_take_the_place_of_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = refusal("m.onnx --calibration x.npy --report o.onnx", capsys)
    assert "have one name" in words

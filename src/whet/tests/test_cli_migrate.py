"""``whet migrate``: all steps, verdicts, and going on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from whet.cli import exits
from whet.cli.main import run_command
from whet.cli.migration import STEPS
from whet.measure.acceptance import Targets, accepted, judge
from whet.tests.small_models import write_layer

LINE = "migrate m.onnx --reference onnx --rounds 4 --threads 1 --json"


def migrate(capsys: pytest.CaptureFixture[str], more: str = "", code: int = exits.OK) -> Any:
    assert run_command(f"{LINE} {more}".split()) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx")


def test_every_step_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    first = migrate(capsys, "--latency-ms 1000 --memory-mib 1 --compile-s 600")
    assert first["accepted"]
    assert first["done_before"] == []
    assert list(first["results"]) == list(STEPS)
    assert len(first["results"]["verify"]["outputs"]) == 3
    assert not first["results"]["tune"]["done"]
    page = Path("m.migration/acceptance.html").read_text()
    assert "at most 1000 ms" in page
    assert "<script" not in page

    again = migrate(capsys, "--latency-ms 0.00001", exits.NEGATIVE)
    assert again["done_before"] == list(STEPS)
    assert [c["name"] for c in again["criteria"] if not c["passed"]] == ["latency"]
    assert again["results"]["bench"] == first["results"]["bench"]
    assert json.loads(Path("m.migration/acceptance.json").read_text())["accepted"] is False

    Path("m.migration/4-verify.json").write_text('{"mark": ')
    assert "verify" not in migrate(capsys)["done_before"]
    assert migrate(capsys, "-O1")["done_before"] == []
    write_layer(Path("m.onnx"), batch=3)
    assert migrate(capsys, "-O1")["done_before"] == []
    assert migrate(capsys, "-O1 --restart")["done_before"] == []


def test_it_tunes_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = migrate(capsys, "--tune 0.01")
    assert found["accepted"]
    tuned = found["results"]["tune"]
    assert tuned["done"]
    assert tuned["trials"] >= 1
    known = json.loads(Path("m.migration/tuning.json").read_text())
    assert sum(len(entry["tried"]) for entry in known["entries"].values()) == tuned["trials"]


def test_it_goes_on_after_a_kill(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "whet.cli.main", *LINE.split()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not Path("m.migration/3-compile.json").exists() and time.monotonic() < limit:
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    for path in Path("m.migration").glob("[1-5]-*.json"):
        assert json.loads(path.read_text())["schema"] == "whet.migrate.step.1"
    found = migrate(capsys)
    assert found["accepted"]
    assert found["done_before"][:3] == ["assess", "tune", "compile"]


def test_what_is_not_supported_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("m.onnx")
    model.graph.node[0].CopyFrom(
        helper.make_node("Nonesuch", ["x", "w", "b"], ["h"], name="odd", domain="com.example")
    )
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, "m.onnx")
    found = migrate(capsys, "--latency-ms 10", exits.NEGATIVE)
    assert list(found["results"]) == ["assess"]
    assert found["results"]["assess"]["problems"][0]["node"] == "odd"
    assert "odd" in Path("m.migration/acceptance.html").read_text()


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("migrate m.whet", exits.USAGE, "ONNX file"),
        ("migrate m.onnx --speedup 2", exits.USAGE, "--against ort"),
        ("migrate m.onnx --tune 1 --tuning m.onnx", exits.USAGE, "exclude each other"),
        ("migrate missing.onnx", exits.MODEL, "missing.onnx"),
        ("migrate m.onnx -o m.onnx", exits.ARTIFACT, "cannot create the folder"),
        ("migrate m.onnx --shape x", exits.USAGE, "x"),
    ],
)
def test_wrong_use(line: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(line.split()) == code
    assert message in capsys.readouterr().err


def test_targets_are_judged_one_by_one() -> None:
    results: dict[str, Any] = {
        "assess": {"problems": []},
        "verify": {"outputs": [{"name": "y", "breaches": [1]}]},
        "compile": {"weight_bytes": 2**20, "arena_bytes": 2**19, "compile_s": 3.0},
        "bench": {
            "times": {"whet": {"median_ms": 2.0}},
            "comparisons": [
                {"peer": "ort", "block_ratio": 1.5},
                {"peer": "openvino", "block_ratio": 0.9},
            ],
        },
    }
    targets = Targets(latency_ms=2.0, speedup=1.0, memory_mib=1.4, compile_s=3.0)
    found = {c.name: c.passed for c in judge(results, targets)}
    assert found == {
        "operators": True, "accuracy": False, "latency": True, "speed against ort": True,
        "speed against openvino": False, "memory": False, "time to compile": True,
    }  # fmt: skip
    assert not accepted(judge(results, targets))
    right: dict[str, Any] = {"assess": {"problems": []}}
    assert accepted(judge(right, Targets()))

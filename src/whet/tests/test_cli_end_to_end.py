"""The command line on the real compiler: compile, load, run, compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.small_models import run_layer, write_layer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that holds m.onnx and x.npy, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_CACHE_DIR", str(tmp_path / "cache"))
    write_layer(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4))
    return tmp_path


@pytest.mark.parametrize("level", [0, 3])
def test_compile_then_run(level: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(f"compile m.onnx -o m.whet -O{level} --threads 1 --json".split()) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["stats"]["launches"] == len(facts["stats"]["groups"])
    assert run_command("run m.whet --input x.npy --output y.npy".split()) == exits.OK
    expected = run_layer(np.load("x.npy"))
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=1e-5, atol=1e-6)
    assert run_command("inspect m.whet".split()) == exits.OK
    assert "dense" in capsys.readouterr().out


def test_a_compiled_file_of_another_name_is_known(folder: Path) -> None:
    assert run_command("compile m.onnx -o model.bin --threads 1".split()) == exits.OK
    assert run_command("run model.bin --input x.npy --output y.npy".split()) == exits.OK
    np.testing.assert_allclose(np.load("y.npy"), run_layer(np.load("x.npy")), rtol=1e-5, atol=1e-6)


def test_damaged_file_is_refused(folder: Path) -> None:
    assert run_command("compile m.onnx -o m.whet --threads 1".split()) == exits.OK
    whole = Path("m.whet").read_bytes()
    Path("m.whet").write_bytes(whole[: len(whole) // 2])
    assert run_command("run m.whet --input x.npy".split()) == exits.ARTIFACT
    Path("m.whet").write_bytes(b"")
    assert run_command("inspect m.whet".split()) == exits.ARTIFACT
    assert run_command("inspect missing.whet".split()) == exits.ARTIFACT


def test_wrong_models_inputs_and_options(folder: Path) -> None:
    Path("bad.onnx").write_bytes(b"not a model")
    assert run_command("compile bad.onnx".split()) == exits.MODEL
    assert run_command("compile missing.onnx".split()) == exits.MODEL
    assert run_command("compile m.onnx --pass no_such_pass=off".split()) == exits.USAGE
    assert run_command("compile m.onnx --target nonsense:cpu".split()) == exits.ARTIFACT
    np.save("wide.npy", np.ones((2, 5), np.float32))
    assert run_command("run m.onnx --input wide.npy".split()) == exits.INPUT
    np.savez("wrong.npz", z=np.ones((2, 4), np.float32))
    assert run_command("run m.onnx --input wrong.npz".split()) == exits.INPUT
    assert not list(folder.glob("*.whet"))


@pytest.mark.slow
def test_interrupt_leaves_nothing_behind(folder: Path) -> None:
    from whet.cli import demo_network

    Path("big.onnx").write_bytes(demo_network.build_network(0).SerializeToString())
    before = set(os.listdir(folder))
    command = [sys.executable, "-m", "whet.cli.main", "compile", "big.onnx"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not psutil.Process(process.pid).children():
            time.sleep(0.05)  # until it generates code, in processes of its own
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED, errors
    assert "Traceback" not in errors
    assert set(os.listdir(folder)) - before <= {"cache"}

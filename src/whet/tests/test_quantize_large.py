"""Models whose weights lie in a file beside them, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.quantized_models import residual_net


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights of more than 64 bytes go to a file of their own."""
    monkeypatch.setattr("whet.graph.save.LARGE_BYTES", 64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with a model, its weights beside it, and data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(
        residual_net(np.random.default_rng(0)), "m.onnx", save_as_external_data=True,
        location="weights.bin", size_threshold=0,
    )  # fmt: skip
    x = np.random.default_rng(1).standard_normal((8, 3, 9, 7))
    np.save("x.npy", x.astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("mode", ["static", "weights", "float16"])
def test_weights_are_read_and_written_beside_the_model(mode: str, folder: Path) -> None:
    data = "" if mode == "weights" else "--calibration x.npy"
    line = f"quantize m.onnx --mode {mode} {data} -o q.onnx"
    assert run_command(line.split()) == exits.OK
    assert sorted(p.name for p in folder.iterdir()) == [
        "m.onnx", "q.onnx", "q.onnx.data", "weights.bin", "x.npy"
    ]  # fmt: skip
    light = onnx.load("q.onnx", load_external_data=False)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in light.graph.initializer)
    x = np.load("x.npy")
    found, right = (whet.compile(p)({"x": x})["y"] for p in ("q.onnx", "m.onnx"))
    assert np.linalg.norm(found - right) < 0.1 * np.linalg.norm(right)


def test_optimize_writes_them_too(folder: Path) -> None:
    assert run_command("optimize m.onnx -o o.onnx".split()) == exits.OK
    assert (folder / "o.onnx.data").stat().st_size > 64
    assert whet.compile("o.onnx")({"x": np.load("x.npy")})["y"].shape == (8, 5)


def test_nothing_is_left_of_what_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("whet.graph.save._flush", full)
    before = sorted(folder.iterdir())
    assert run_command("quantize m.onnx --mode weights -o q.onnx".split()) == exits.ARTIFACT
    assert sorted(folder.iterdir()) == before

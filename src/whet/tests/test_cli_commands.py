"""The commands, on a stand-in for the compiler: what they write, where, and their codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.small_models import FakeModel, run_layer, write_layer


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Work in an empty folder with m.onnx, and record what the compiler is asked."""
    recorded: list[dict[str, Any]] = []

    def fake_compile(source: Any, **keywords: Any) -> FakeModel:
        recorded.append({"source": source, **keywords})
        return FakeModel()

    monkeypatch.setitem(vars(whet), "compile", fake_compile)
    monkeypatch.setitem(vars(whet), "load", lambda *_, **__: FakeModel())
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx")
    return recorded


def test_compile_passes_everything_on(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "compile m.onnx -o out.whet --shape x:2,4 --threads 3 -O1 --pass fuse=off --target t:c"
    assert run_command([*line.split(), "--json"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["output"] == "out.whet"
    assert facts["file_bytes"] == Path("out.whet").stat().st_size
    assert facts["flops"] == 48
    assert facts["stats"]["groups"][0]["nodes"] == ["dense", "activate"]
    (call,) = calls
    assert call["shapes"] == {"x": (2, 4)}
    options = call["options"]
    assert (options.threads, options.opt_level, options.target) == (3, 1, "t:c")
    assert dict(options.passes) == {"fuse": False}


def test_compile_names_the_output_itself(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["compile", "m.onnx"]) == exits.OK
    assert Path("m.whet").exists()
    assert "wrote m.whet" in capsys.readouterr().out


def test_compile_refuses_a_bad_place_before_compiling(calls: list[dict[str, Any]]) -> None:
    assert run_command(["compile", "m.onnx", "-o", "no/such/m.whet"]) == exits.ARTIFACT
    assert run_command(["compile", "m.onnx", "-o", "."]) == exits.ARTIFACT
    assert calls == []


def test_run_saves_the_outputs(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save("x.npy", x)
    assert run_command("run m.whet --input x.npy --output y.npz --json".split()) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    with np.load("y.npz") as saved:
        assert np.array_equal(saved["y"], run_layer(x))
    assert facts["outputs"][0]["shape"] == [2, 3]
    assert facts["saved"] == "y.npz"
    assert facts["seconds"] > 0
    assert calls == []


def test_run_compiles_an_onnx_file(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("run m.onnx --input random:3".split()) == exits.OK
    assert len(calls) == 1
    assert "float32" in capsys.readouterr().out


def test_run_needs_an_input_and_fixed_shapes(calls: list[dict[str, Any]]) -> None:
    assert run_command(["run", "m.whet"]) == exits.USAGE
    assert run_command("run m.whet --input random --shape x:1,4".split()) == exits.USAGE
    assert run_command("run m.whet --input nothing.npy".split()) == exits.INPUT
    assert run_command("run m.whet --input random --output y.txt".split()) == exits.INPUT


def test_inspect_onnx_without_compiling(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["inspect", "m.onnx", "--json"]) == exits.OK
    graph = json.loads(capsys.readouterr().out)["graph"]
    assert graph["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 4]}]
    assert graph["ops"] == {"Gemm": 1, "Relu": 1}
    assert graph["parameters"] == 15
    assert graph["weight_bytes"] == 60
    assert graph["flops"] == 2 * 2 * 3 * 4
    assert calls == []


def test_inspect_open_shape_has_no_flops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_layer(tmp_path / "open.onnx", batch="batch")
    assert run_command(["inspect", str(path), "--json"]) == exits.OK
    graph = json.loads(capsys.readouterr().out)["graph"]
    assert graph["inputs"][0]["shape"] == ["batch", 4]
    assert (graph["flops"], graph["unknown_flops"]) == (0, 1)


def test_inspect_compiled_names_the_nodes(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["inspect", "m.onnx", "--compile"]) == exits.OK
    text = capsys.readouterr().out
    assert "Gemm + Relu" in text
    assert "dense, activate" in text
    Path("m.whet").write_bytes(b"compiled")
    assert run_command(["inspect", "m.whet", "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["compiled"]["stats"]["launches"] == 1


@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\x08"])
def test_inspect_what_is_no_model(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    assert run_command(["inspect", str(path)]) == exits.MODEL
    assert str(path) in capsys.readouterr().err


def test_bench_alone(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench m.onnx --rounds 5 --json -".split()) == exits.OK
    found = json.loads(capsys.readouterr().out)
    assert found["times"]["whet"]["calls"] == 5
    assert found["comparisons"] == []
    Path("m.whet").write_bytes(b"compiled")
    assert run_command("bench m.whet --rounds 2 --json b.json".split()) == exits.OK
    assert json.loads(Path("b.json").read_text())["threads"] == 1
    assert "whet" in capsys.readouterr().out


@pytest.mark.peer
def test_bench_against_onnxruntime(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    Path("m.whet").write_bytes(b"compiled")
    line = "bench m.whet --onnx m.onnx --against ort --rounds 5 --threads 1 --json - --require"
    assert run_command([*line.split(), "0"]) == exits.OK
    found = json.loads(capsys.readouterr().out)
    assert found["comparisons"][0]["peer"] == "ort"
    assert found["largest_difference"]["ort"] < 1e-5
    assert run_command([*line.split(), "1e9"]) == exits.NEGATIVE


def test_bench_refuses_what_it_cannot_compare(calls: list[dict[str, Any]]) -> None:
    assert run_command("bench m.whet --against ort".split()) == exits.USAGE
    assert run_command("bench m.onnx --against nonsense".split()) == exits.USAGE
    assert run_command("bench m.onnx --against whet".split()) == exits.USAGE


def test_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHET_CACHE_DIR", str(tmp_path / "cache"))
    assert run_command(["doctor", "--json"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["cache"]["path"] == str(tmp_path / "cache")
    assert facts["cache"]["problem"] is None
    assert facts["cpu"]["allowed"] >= 1
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["problems"] == []
    assert run_command(["doctor"]) == exits.OK
    assert "ready to compile" in capsys.readouterr().out


def test_doctor_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHET_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("whet.cli.machine.package_version", lambda _: None)
    monkeypatch.setattr("whet.cli.machine.check_executable_mapping", lambda: "forbidden")
    assert run_command(["doctor"]) == exits.NEGATIVE
    text = capsys.readouterr().out
    assert "numpy is not installed" in text
    assert "TMPDIR" in text
    assert "WHET_CACHE_DIR" in text

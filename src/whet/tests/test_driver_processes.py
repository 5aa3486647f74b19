"""Caches and processes: damage, sharing, interruption and full disks leave nothing broken."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.cli import exits

LAYERS = 16
TIMEOUT_S = 60


def _deep_model(layers: int = LAYERS) -> onnx.ModelProto:
    """Return a chain of products of different sizes, so that each needs a kernel of its own."""
    rng = np.random.default_rng(0)
    sizes = [16 + 3 * k for k in range(layers + 1)]
    weights = [rng.standard_normal(pair, np.float32) / 4 for pair in itertools.pairwise(sizes)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"h{k}", f"w{k}"], [f"h{k + 1}"]) for k in range(layers)],
        "deep",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, (5, sizes[0]))],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, (5, sizes[-1]))],
        [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with deep.onnx and a cache of its own; two compiler processes."""
    onnx.save(_deep_model(), tmp_path / "deep.onnx")
    monkeypatch.setenv("WHET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WHET_JOBS", "2")
    return tmp_path


def _start(
    folder: Path, output: str, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "whet.cli.main", "compile", "deep.onnx", "-o", output]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,  # noqa: PLW1509 - this test process has no other threads to mind
    )


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in path.read_text().split()] if path.exists() else []


def _wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def _objects(folder: Path) -> list[Path]:
    return [p for p in (folder / "cache").rglob("*") if p.is_file()]


def test_a_damaged_cache_is_compiled_again(folder: Path) -> None:
    """Flipped, cut, empty and replaced objects are noticed; the result is the same file."""
    whet.compile(folder / "deep.onnx").save(folder / "a.whet")
    objects = sorted(_objects(folder))
    assert len(objects) > 4
    for number, path in enumerate(objects):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        damaged = (bytes(data), bytes(data[: len(data) // 2]), b"", None)[number % 4]
        path.unlink()
        if damaged is None:
            path.mkdir()
        else:
            path.write_bytes(damaged)
    whet.compile(folder / "deep.onnx").save(folder / "b.whet")
    assert (folder / "a.whet").read_bytes() == (folder / "b.whet").read_bytes()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_only_costs_time(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is a file, or in a place of no folders, is no error."""
    (folder / "file").write_text("")
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / place))
    whet.compile(_deep_model(2))
    assert (folder / "file").read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interruption_ends_all_compiler_processes(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C, as a terminal sends it to the whole group, and death without a chance to tidy up."""
    with _start(folder, "m.whet") as process:
        _wait_for(lambda: _children(process.pid) or process.poll() is not None)
        helpers = _children(process.pid)
        assert helpers, "compilation ended before its helpers were seen"
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in errors
    assert process.returncode == (exits.INTERRUPTED if number == signal.SIGINT else -number)
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers))
    assert not (folder / "m.whet").exists()
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name or p.name.startswith(".new")]
    whet.compile(folder / "deep.onnx").save(folder / "after.whet")


def test_processes_share_a_cache_though_one_is_killed(folder: Path) -> None:
    """Two get the same file; the third is killed in the middle."""
    processes = [_start(folder, f"{k}.whet") for k in range(3)]
    _wait_for(lambda: _children(processes[2].pid) or processes[2].poll() is not None)
    processes[2].kill()
    codes = []
    for process in processes:
        with process:
            process.communicate(timeout=TIMEOUT_S)
            codes.append(process.returncode)
    assert codes[:2] == [exits.OK, exits.OK]
    assert (folder / "0.whet").read_bytes() == (folder / "1.whet").read_bytes()


def test_a_full_disk_is_an_error_and_leaves_nothing(folder: Path) -> None:
    """Writing more than the limit allows fails; neither the file nor a part of it stays."""
    whet.compile(folder / "deep.onnx").save(folder / "whole.whet")
    most = (folder / "whole.whet").stat().st_size - 1

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    before = {p.name for p in folder.iterdir()}
    with _start(folder, "m.whet", limit) as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == exits.ARTIFACT, errors
    assert "cannot write" in errors
    assert "Traceback" not in errors
    assert {p.name for p in folder.iterdir()} - before <= {"cache"}


def test_compiler_processes_ignore_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in the current folder with the name of one that is needed does no harm."""
    (folder / "msgspec.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(folder)
    whet.compile("deep.onnx")

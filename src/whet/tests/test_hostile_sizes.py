"""Models that ask for more memory than there is, by few bytes: refused, or never taken."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import whet
from whet import cgroups
from whet.cli import exits
from whet.errors import ResourceError
from whet.runtime import piles
from whet.tests.flow_models import compiled, parse

COLLECTS = """g (float[1] x, int64 k) => (float[1] y, float[m,1] z) {
    y, z = Loop(k, , x) <
      body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w, float[1] s) {
        d = Identity(c) w = Add(v, v) s = Identity(w) }> }"""


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A container of 300 MiB."""
    (tmp_path / "memory.max").write_text(str(300 << 20))
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "cgroup")
    return 300 << 20


RANGE = """g (int64 n) => (int64[m] y) {
    a = Constant<value_int=0>() d = Constant<value_int=1>() y = Range(a, n, d) }"""


def test_a_block_beyond_the_container_is_refused(container: int) -> None:
    model = compiled(RANGE)
    assert model({"n": np.array(1 << 20)})["y"][-1] == (1 << 20) - 1
    with pytest.raises(ResourceError, match=f"{1 << 33} bytes cannot be had in a container"):
        model({"n": np.array(1 << 30)})


def test_a_constant_range_beyond_the_limit_is_refused() -> None:
    constant = f"n = Constant<value_int={10**12}>() y = "
    with pytest.raises(ResourceError, match=r"(?s)8000000000000 bytes.*--limit tensor_bytes"):
        compiled(RANGE.replace("(int64 n)", "()").replace("y = ", constant))


def test_many_long_ranges_take_no_memory() -> None:
    """2 GiB each, if they were constants."""
    lines = [f"b{k} = Constant<value_int={2**28 - 1 - k}>() r{k} = Range(a, b{k}, d)"
             f" y{k} = Gather(r{k}, x)" for k in range(8)]  # fmt: skip
    outputs = ", ".join(f"int64[n] y{k}" for k in range(8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = compiled(
        f"g (int64[n] x) => ({outputs}) {{ a = Constant<value_int=0>() "
        f"d = Constant<value_int=1>() {' '.join(lines)} }}"
    )
    found = model({"x": np.array([5, 2**28 - 9])})
    assert all(found[f"y{k}"].tolist() == [5, 2**28 - 9] for k in range(8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10


def test_a_loop_collects_as_long_as_there_is_memory(
    container: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piles, "_LOOK_AFTER_BYTES", 1 << 10)
    monkeypatch.setattr(piles, "_ARRAY_BYTES", 1 << 20)  # a few hundred trips instead of a million
    model = compiled(COLLECTS)
    feeds = {"x": np.ones(1, np.float32), "k": np.array(100)}
    assert model(feeds)["z"].shape == (100, 1)
    with pytest.raises(ResourceError, match="what 225 trips of a loop collect needs"):
        model({**feeds, "k": np.array(10**9)})


_MAIN = "from whet.cli.entry import main; main()"


def test_ctrl_c_ends_a_long_loop(tmp_path: Path) -> None:
    onnx.save(parse(COLLECTS), tmp_path / "m.onnx")
    whet.compile(tmp_path / "m.onnx").save(tmp_path / "m.whet")
    np.savez(tmp_path / "in.npz", x=np.ones(1, np.float32), k=np.array(10**9))
    line = [sys.executable, "-c", _MAIN, "run", "m.whet", "--input", "in.npz"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == exits.INTERRUPTED
    assert "Traceback" not in errors

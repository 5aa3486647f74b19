"""Files that are none: devices without end or content, and other forms, where a command reads."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.small_models import write_layer
from whet.whole_files import read_text_whole, read_whole


@pytest.fixture(autouse=True)
def _little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with m.onnx and x.npy; 2 GiB more are too much."""
    monkeypatch.chdir(tmp_path)
    write_layer(Path("m.onnx"))
    np.save("x.npy", np.ones((2, 4), np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null"])
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("compile m.onnx --tuning @", exits.USAGE),
        ("compile m.onnx --preprocess @", exits.USAGE),
        ("optimize m.onnx --switch-file @", exits.USAGE),
        ("optimize --config @", exits.USAGE),
        ("quantize m.onnx --calibration x.npy --config @", exits.USAGE),
        ("tune m.onnx -o @", exits.ARTIFACT),
        ("inspect @", exits.MODEL),
        ("verify @", exits.MODEL),
        ("migrate @", exits.MODEL),
        ("compare @ m.onnx", exits.MODEL),
        ("converter_lite --fmk=ONNX --modelFile=m.onnx --outputFile=o --configFile=@", exits.USAGE),
    ],
)
def test_a_device_is_no_file(
    line: str, code: int, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_command(line.replace("@", device).split())
    shown = capsys.readouterr().err
    if ("--switch-file" in line or "--configFile" in line) and device == "/dev/null":
        assert done == exits.OK, "nothing is asked for"
        return
    assert done == code, shown
    assert device in shown
    assert "hint:" in shown


@pytest.mark.parametrize("command", ["inspect", "verify", "migrate", "compile"])
@pytest.mark.parametrize("name", ["m.json", "m.textproto", "m.onnxtxt"])
def test_other_forms_of_models_are_refused(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suffix decides nothing: a model is what protocol buffers write."""
    Path(name).write_text("[1,2", encoding="ascii")
    assert run_command([command, name]) == exits.MODEL
    assert f"at {name}" in capsys.readouterr().err
    Path("m.onnx").rename(name)
    assert run_command(["inspect", name]) == exits.OK


def test_a_pipe_is_read(tmp_path: Path) -> None:
    ends = os.pipe()
    os.write(ends[1], b"one\r\ntwo")
    os.close(ends[1])
    assert read_text_whole(Path(f"/proc/self/fd/{ends[0]}")) == "one\ntwo"
    os.close(ends[0])
    Path("three").write_bytes(b"abc")
    assert read_whole(Path("three"), most=3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_whole(Path("three"), most=2)


def test_report_and_model_may_both_be_thrown_away() -> None:
    line = "quantize m.onnx --calibration x.npy -o /dev/null --report /dev/null"
    assert run_command(line.split()) == exits.OK

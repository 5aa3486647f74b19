"""Files that are written whole take the place of files alone."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from whet import whole_files
from whet.cli.output import check_writable
from whet.errors import ArtifactError
from whet.whole_files import write_bytes, write_whole


@pytest.fixture(params=["no name", "a hidden name"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write: not every file system has files without a name."""
    if request.param == "a hidden name":
        monkeypatch.setattr(whole_files, "_without_name", lambda folder: None)
    return str(request.param)


@pytest.mark.parametrize("name", ["folder", "n" * 300])
def test_what_is_no_file_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError):
        check_writable(tmp_path / name)
    with pytest.raises(ArtifactError):
        write_bytes(tmp_path / name, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder").is_dir()


def test_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "device").symlink_to("/dev/null")
    check_writable(tmp_path / "device")
    write_bytes(tmp_path / "device", b"x")
    assert (tmp_path / "device").is_char_device()


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        check_writable(tmp_path / "f")
        write_bytes(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    for name in ("there", "nowhere"):
        (tmp_path / name).symlink_to(tmp_path / f"{name}.target")
    (tmp_path / "there.target").write_bytes(b"old")
    for name in ("there", "nowhere"):
        write_bytes(tmp_path / name, b"new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "there.target").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nowhere", "there", "there.target"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mask_of_the_process_holds(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "f", b"x")
        write_bytes(tmp_path / "f", b"y")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["new", "old"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_nothing(
    name: str, error: type[BaseException], tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"whole")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_whole(tmp_path / name, write)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old", b"whole")]


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            file.write(bytes(1 << 20))
            file.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ArtifactError, match="cannot write: File too large"):
            write_whole(tmp_path / "f", write)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_kill_leaves_nothing(name: str, way: str, tmp_path: Path) -> None:
    probe = None if way != "no name" else whole_files._without_name(tmp_path)
    if probe is None:
        pytest.skip("a hidden name stays")
    probe.close()
    (tmp_path / "old").write_bytes(b"whole")
    code = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / name)], check=False)
    assert code.returncode == -signal.SIGKILL
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old", b"whole")]


_KILLED = """
import os, pathlib, signal, sys
from whet.whole_files import write_whole

def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_whole(pathlib.Path(sys.argv[1]), write)
"""

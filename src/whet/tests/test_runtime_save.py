"""Saving a ``.whet`` file where a disk is full, a process is killed, or the place is no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from whet.errors import ArtifactError
from whet.runtime.load import load
from whet.tests.saved_programs import saved


def test_pipes_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    """Who writes to ``/dev/null`` as root must not find a file there afterwards."""
    pipe, file = tmp_path / "pipe", tmp_path / "m.whet"
    os.mkfifo(pipe)
    saved(file)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    saved(pipe)
    assert reader.communicate(timeout=60)[0] == file.read_bytes()
    assert pipe.is_fifo()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    before = path.read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    model = load(path)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{name}", refuse)
            with pytest.raises(ArtifactError, match="No space left"):
                model.save(path)
        assert os.listdir(tmp_path) == ["m.whet"]
        assert path.read_bytes() == before
    with pytest.raises(ArtifactError, match="cannot write"):
        model.save(tmp_path / "none" / "m.whet")


_LIMITED = """
    import resource, signal, sys
    from whet.errors import ArtifactError
    from whet.runtime.load import load
    model = load(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        model.save(sys.argv[1])
    except ArtifactError as error:
        assert "File too large" in str(error) and "free some space" in str(error), error
    else:
        raise AssertionError("it was written")
"""


def test_a_disk_that_fills_up_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    before = path.read_bytes()
    assert len(before) > 5000
    subprocess.run([sys.executable, "-c", textwrap.dedent(_LIMITED), str(path)], check=True)
    assert os.listdir(tmp_path) == ["m.whet"]
    assert path.read_bytes() == before


_KILLED = """
    import os, signal, sys
    import whet.program.save as save
    from whet.runtime.load import load
    model = load(sys.argv[1])
    left = int(sys.argv[2])
    def counted(function):
        def call(*args, **kwargs):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for name in ("open", "fsync", "close", "replace"):
        setattr(os, name, counted(getattr(os, name)))
    class Counted:
        def __init__(self, file):
            self.file = file
        def write(self, data):
            counted(self.file.write)(data)
            self.file.flush()
    parts = save._write_parts
    save._write_parts = lambda file, *rest: parts(Counted(file), *rest)
    model.save(sys.argv[1])
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    before = path.read_bytes()
    for step in range(40):
        child = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_KILLED), str(path), str(step)], check=False
        )
        assert path.read_bytes() == before
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    else:
        pytest.fail("never finished")
    load(path)

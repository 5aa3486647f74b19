"""Files that are written whole take the place of files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whet.cli.output import check_writable
from whet.errors import ArtifactError
from whet.whole_files import write_bytes


def _places(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/null")
    (folder / "folder").mkdir()
    return {name: folder / name for name in ("pipe", "device", "folder", "n" * 300)}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "n" * 300])
def test_what_is_no_file_stays(kind: str, tmp_path: Path) -> None:
    place = _places(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError):
        check_writable(place)
    with pytest.raises(ArtifactError):
        write_bytes(place, b"x")
    assert sorted(tmp_path.iterdir()) == before
    assert not any(path.is_file() for path in before)


def test_names_of_devices_are_not_taken() -> None:
    with pytest.raises(ArtifactError, match="the output is no file"):
        write_bytes(Path("/dev/whet-test"), b"x")
    assert not Path("/dev/whet-test").exists()


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        check_writable(tmp_path / "f")
        write_bytes(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["f"]

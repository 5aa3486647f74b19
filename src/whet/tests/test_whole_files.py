"""Files that are written whole take the place of files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.cli.output import check_writable
from whet.errors import ArtifactError
from whet.whole_files import write_bytes


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

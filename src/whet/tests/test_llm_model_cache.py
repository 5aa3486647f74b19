"""Compiled checkpoints that are kept: found again, made again when stale or damaged, by many."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whet.llm import LLM, SamplingParams, Source
from whet.llm.model_cache import VARIANTS
from whet.options import Options
from whet.tests.tiny_models import write_checkpoint

FEW = SamplingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint, and a cache that has its kernels but no model."""
    place = tmp_path_factory.mktemp("warm")
    (place / "model").mkdir()
    said(write_checkpoint(place / "model", "llama"), place / "cache")
    shutil.rmtree(place / "cache" / "llm")
    return place


@pytest.fixture
def folder(warm: Path, tmp_path: Path) -> Path:
    """Return a checkpoint."""
    return Path(shutil.copytree(warm / "model", tmp_path / "model"))


@pytest.fixture
def cache(warm: Path, tmp_path: Path) -> Path:
    """Return a cache without models."""
    return Path(shutil.copytree(warm / "cache", tmp_path / "cache"))


def said(folder: Path, cache: Path, context: int = 0) -> tuple[int, ...]:
    options = Options(threads=2, cache_dir=cache)
    llm = LLM(Source(folder, keep_from=0), options=options, context=context)
    return llm.generate([3, 17, 99], FEW)[0].tokens


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "llm").glob("*.whet"))


def state(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_a_kept_model_is_mapped_and_says_the_same(folder: Path, cache: Path) -> None:
    first = said(folder, cache)
    (entry,) = entries(cache)
    before = state(entry)
    assert said(folder, cache) == first and state(entry) == before
    with open("/proc/self/maps", encoding="utf-8") as maps:
        llm = LLM(Source(folder, keep_from=0), options=Options(threads=2, cache_dir=cache))
        assert any(str(entry) in line for line in maps)
    assert llm.generate([3, 17, 99], FEW)[0].tokens == first


def test_what_changes_the_model_changes_the_entry(folder: Path, cache: Path) -> None:
    first = said(folder, cache)
    said(folder, cache, 64)
    said(folder, cache, 96)
    assert len(entries(cache)) == 3
    weights = folder / "model.safetensors"
    times = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-4:] = b"\x00\x00\x80\x3f"  # as large and as old as before
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    said(folder, cache)
    assert len(entries(cache)) == 4
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0}))
    assert said(folder, cache) != first
    assert len(entries(cache)) == VARIANTS  # the one used longest ago is gone


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_entry_is_made_again(damage: str, folder: Path, cache: Path) -> None:
    first = said(folder, cache)
    (entry,) = entries(cache)
    whole = bytearray(entry.read_bytes())
    middle = len(whole) - 2000
    damaged = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "text": b"no model",
    }[damage]
    entry.write_bytes(bytes(damaged))
    assert said(folder, cache) == first
    assert entry.read_bytes() != damaged and entry.stat().st_size == len(whole)
    assert said(folder, cache) == first


def test_small_checkpoints_and_those_not_wanted_are_not_kept(folder: Path, cache: Path) -> None:
    for keep_from in (None, 1 << 20):
        options = Options(threads=2, cache_dir=cache)
        LLM(Source(folder, keep_from=keep_from), options=options)
        assert not entries(cache)


CHILD = """
import sys
from pathlib import Path
from whet.tests.test_llm_model_cache import said
print(said(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_at_once(folder: Path, cache: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(folder), str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [child.communicate(timeout=200)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert answers[0] == answers[1] == f"{said(folder, cache)}\n"
    assert len(entries(cache)) == 1 and not list((cache / "llm").glob(".*"))


def test_a_folder_that_cannot_be_written_is_no_error(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "llm").write_text("a file where the folder should be")
    assert len(said(folder, cache)) == 12
    assert "is not kept" in caplog.text

"""Sentences are right for one of everything, too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.quantize.scores import find_metric
from whet.tests.quantized_models import build
from whet.words import counted

_WRONG = re.compile(
    r"(?<![\d.,×])\b1 (?:layers|samples|variants|nodes|launches|runs|inputs|rounds|values|kinds"
    r"|threads|others|compilations|schedules|calls|products)\b"
)


def test_a_number_has_its_noun() -> None:
    assert [counted(n, "layer") for n in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert [counted(n, "launch", "launches") for n in (1, 2)] == ["1 launch", "2 launches"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of one node, and one sample for it."""
    monkeypatch.chdir(tmp_path)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="p")
    weight = np.random.default_rng(0).standard_normal((8, 8))
    onnx.save(build([node], {"w": weight}, [1, 8], [1, 8]), "m.onnx")
    np.save("x.npy", np.ones((1, 8), np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("quantize m.onnx --calibration x.npy", "1 layer quantised, 0 in float"),
        ("quantize m.onnx --mode bfloat16", "1 node converted, 0 left"),
        ("profile m.onnx --threads 1 --runs 1", "1 launch, 1 run, 1 thread"),
        ("tune m.onnx --threads 1 --seconds 0", "0 schedules tried"),
        ("verify m.onnx --per-layer --threads 1", "all of 1 value."),
        ("bench m.onnx --threads 1 --rounds 1", "1 thread"),
    ],
)  # fmt: skip
def test_commands_count_one(
    line: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(line.split()) == exits.OK
    words = " ".join(capsys.readouterr().out.split())
    assert says in words
    assert _WRONG.search(words) is None, words


def test_pages_count_one(folder: Path) -> None:
    for line in (
        "report m.onnx -o m.html --threads 1",
        "inspect m.onnx --view --no-browser -o v.html --threads 1",
    ):
        assert run_command(line.split()) == exits.OK
    for page in ("m.html", "v.html"):
        words = re.sub(r"<[^>]*>|\s+", " ", Path(page).read_text())
        assert _WRONG.search(words) is None


def test_errors_count_one() -> None:
    outputs = {"y": np.ones((2, 3), np.float32)}
    with pytest.raises(whet.InputError, match="1 label for 2 results"):
        find_metric("top1")(outputs, outputs, np.zeros(1, int))

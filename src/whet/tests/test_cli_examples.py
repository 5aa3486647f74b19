"""Command lines in the help and the guides, run as they stand beside a small network."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from whet.cli import exits
from whet.cli.main import run_command, whet_command

ELSEWHERE = {"demo": "a test of its own", "llm": "needs a checkpoint"}
CONTEXT = click.Context(whet_command)
COMMANDS = [n for n in whet_command.list_commands(CONTEXT) if n not in ELSEWHERE]

SHORTER = {
    "bench": "--rounds 2",
    "compare": "--rounds 10",
    "migrate": "--rounds 2",
    "report": "--rounds 2",
    "tune": "--seconds 0",
}
"""Options put behind an example, so that a test does not measure for as long as a user would."""

DOCS = Path(__file__).parents[3] / "docs"
GUIDES = ("accuracy", "optimize", "profiling", "quantize", "targets", "tuning")
LINE = re.compile(r"^    whet ([^#\n]+)", re.MULTILINE)
LINES = [
    line.strip()
    for guide in GUIDES
    for line in LINE.findall((DOCS / f"{guide}.md").read_text())
    if "--measured" not in line  # says no where the machine is too busy to tell
]

CLASSES = 4


def _network() -> onnx.ModelProto:
    """Return a classifier of pictures ``x`` that tells which quarter of a picture is brightest."""
    mean = np.full((1, 3, 112, 112), 1 / (3 * 112 * 112), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "mean"], ["quarters"], name="mean", strides=[112, 112]),
        helper.make_node("Relu", ["quarters"], ["positive"], name="positive"),
        helper.make_node("Flatten", ["positive"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w"], ["y"], name="classify"),
    ]
    weights = {"mean": mean, "w": np.eye(CLASSES, dtype=np.float32) * 4 - 1}
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "quarters",
        [helper.make_tensor_value_info("x", kind, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", kind, [1, CLASSES])],
        initializer=[numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _pictures(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return pictures with one bright quarter each."""
    x = np.random.default_rng(0).uniform(0, 0.25, (count, 3, 224, 224)).astype(np.float32)
    for k in range(count):
        top, left = divmod(k % CLASSES, 2)
        x[k, :, top * 112 :, left * 112 :][:, :112, :112] += 0.5
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that examples name."""
    place = tmp_path_factory.mktemp("examples")
    (place / "m.onnx").write_bytes(_network().SerializeToString())
    np.save(place / "x.npy", _pictures(1))
    np.savez(place / "x.npz", x=_pictures(1))
    (place / "data").mkdir()
    np.save(place / "data" / "pictures.npy", _pictures(16))
    names = {"input_model": "m.onnx", "output_model": "m.opt.onnx"}
    strategy = {"optimization_version": "2.0", "model_info": names}
    (place / "optimization_config.json").write_text(json.dumps(strategy))
    shape = "--shape x:1,3,224,224 --threads 1"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("WHET_JOBS", "1")
        for name in ("m.whet", "before.whet", "after.whet"):
            assert run_command(f"compile m.onnx -o {name} {shape}".split()) == exits.OK
        for name in ("before.json", "after.json"):
            line = f"bench m.whet --threads 1 --rounds 2 --json {name}"
            assert run_command(line.split()) == exits.OK
    return place


def example_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the words of a command's example, without ``whet``."""
    assert run_command([name, "--help"]) == exits.OK
    shown = " ".join(capsys.readouterr().out.split())
    found = re.search(rf"Example: whet ({name}.*?)(?= Options: | \Z)", shown + " ")
    assert found, shown
    return shlex.split(found[1])


@pytest.fixture
def at_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own with the files that examples name."""
    shutil.copytree(folder, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHET_JOBS", "1")


def run_shorter(words: list[str]) -> int:
    """Run a command line, with fewer rounds or seconds."""
    return run_command([*words, *shlex.split(SHORTER.get(words[0], ""))])


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_works(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = example_of(name, capsys)
    if "openvino" in " ".join(words) and importlib.util.find_spec("openvino") is None:
        pytest.skip("the example compares with OpenVINO")
    assert run_shorter(words) in (exits.OK, exits.NEGATIVE), capsys.readouterr().err


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("line", LINES)
def test_lines_of_guides_work(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_shorter(shlex.split(line)) in (exits.OK, exits.NEGATIVE), capsys.readouterr().err

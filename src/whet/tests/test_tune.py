"""Tuning: questions, answers and their file, trials on a small model, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.codegen.objects.targets import resolve_target
from whet.driver import ask_schedules
from whet.errors import OptionError
from whet.kernel.schedule import Work, choose_tile
from whet.kernel.schedules import Answer, Question, fits
from whet.kernel.tuning import FORM, Entry, Tuning, read_tuning
from whet.kernel.winograd_work import Convolution
from whet.options import Options
from whet.tune.candidates import candidates
from whet.tune.trial import Times
from whet.tune.tune import Subject, tune

OPTIONS = Options(threads=1)
RNG = np.random.default_rng(11)


def write_network(path: Path) -> Path:
    """Write a 3x3 convolution, a Relu and a product."""
    shape = onnx.TensorProto.FLOAT, (1, 16, 12, 12)
    weights = {
        "w": RNG.standard_normal((32, 16, 3, 3)).astype(np.float32),
        "v": RNG.standard_normal((12, 24)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", *shape)],
        [helper.make_tensor_value_info("y", shape[0], (1, 32, 12, 24))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    return write_network(tmp_path / "m.onnx")


def feed() -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((1, 16, 12, 12)).astype(np.float32)}


def save_answers(path: Path, answers: dict[str, Answer]) -> Path:
    path.write_text(Tuning(entries={k: Entry(answer=a) for k, a in answers.items()}).text())
    return path


def test_every_candidate_computes_the_same(model: Path, tmp_path: Path) -> None:
    """Whatever the tuner tries, the result is right: one compilation a place in the lists."""
    x = feed()
    expected = whet.compile(model, options=dataclasses.replace(OPTIONS, opt_level=0))(x)["y"]
    asked = ask_schedules(model, options=OPTIONS).asked
    lists = {q: candidates(q, a) for group in asked.values() for q, a in group.items()}
    assert len(lists) >= 2
    scale = np.abs(expected).max()
    for place in range(max(map(len, lists.values()))):
        answers = {q.key: c[place] for q, c in lists.items() if place < len(c)}
        file = save_answers(tmp_path / "t.json", answers)
        tuned = whet.compile(model, options=dataclasses.replace(OPTIONS, tuning=file))
        assert np.abs(tuned(x)["y"] - expected).max() < 2e-5 * scale, answers


def test_answers_become_schedules(model: Path, tmp_path: Path) -> None:
    asked = ask_schedules(model, options=OPTIONS).asked
    (product,) = asked[("product",)]
    given = asked[("product",)][product].tile
    assert given is not None
    tile = replace(given, rows=3, vectors=1, unroll=2)
    file = save_answers(tmp_path / "t.json", {product.key: Answer(0, tile)})
    options = dataclasses.replace(OPTIONS, tuning=file)
    assert ask_schedules(model, options=options).asked[("product",)][product].tile == tile
    other = ask_schedules(model, options=dataclasses.replace(options, threads=2)).asked[
        ("product",)
    ]
    assert [answer.tile for answer in other.values()] != [tile], "another question"
    tuned = whet.compile(model, options=options)
    assert tuned.program != whet.compile(model, options=OPTIONS).program
    assert "tuning_digest" in tuned.metadata


def test_tuning_ends_resumes_and_finds_what_is_faster(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by a stand-in that prefers few rows, so that no clock decides."""
    tried: list[int] = []

    def faster(self: Times) -> bool:
        tried.append(1)
        return len(tried) == 3

    monkeypatch.setattr(Times, "faster", faster)
    monkeypatch.setattr("whet.tune.trial.TURNS", 1)
    monkeypatch.setattr("whet.tune.tune.candidates", lambda q, a: candidates(q, a)[:4])
    subject = Subject(model, None, OPTIONS, feed())
    saved: list[Tuning] = []
    part = tune(subject, Tuning(), seconds=0.0, save=saved.append)
    assert part == Tuning()
    whole = tune(subject, part, seconds=250.0, save=saved.append)
    assert len(whole.answers()) == 1
    assert saved[-1] == whole
    entries = whole.entries.values()
    assert all(len(set(entry.tried)) == len(entry.tried) >= 4 for entry in entries)
    count = len(tried)
    assert tune(subject, whole, seconds=100.0, save=saved.append) == whole
    assert len(tried) == count, "nothing is tried twice"


def test_what_is_faster_beyond_doubt() -> None:
    before = np.full(24, 10.0)
    assert Times(before, before * 0.95).faster()
    assert not Times(before, before * 0.995).faster()
    noise = np.exp(RNG.normal(0, 0.3, 24))
    assert not Times(before, before * 0.97 * noise).faster()
    assert not Times(before, np.zeros(24)).faster()


def test_keys_tell_questions_apart() -> None:
    target = resolve_target("x86_64-linux-gnu:haswell")
    work = Work(1, 64, 64, 64, 64, False)
    keys = {
        Question(work, target, 1).key,
        Question(work, target, 2).key,
        Question(replace(work, rows=65), target, 1).key,
        Question(work, replace(target, registers=12), 1).key,
        Question(Convolution(1, 64, 64, 64, 64), target, 1).key,
    }
    assert len(keys) == 5
    tile = choose_tile(work, target, 1)
    assert fits(tile, work, target)
    assert not fits(replace(tile, rows=40), work, target)
    assert not fits(replace(tile, unroll=0), work, target)
    assert not fits(replace(tile, block=48), work, target)


@pytest.mark.parametrize("cpu", ["x86_64-linux-gnu:haswell", "aarch64-linux-gnu:neoverse-n1"])
@pytest.mark.parametrize("edges", [False, True])
def test_what_the_cost_model_chooses_can_be_carried_out(cpu: str, *, edges: bool) -> None:
    target = resolve_target(cpu)
    for rows, cols, depth in itertools.product((1, 9, 40, 784), (1, 4, 17, 64), (3, 16, 512)):
        work = Work(16, rows, cols, 9 * depth, depth, edges, blocks=True)
        assert fits(choose_tile(work, target, 1), work, target)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{", "whet tune"),
        ('{"schema": "whet.tuning.1", "entries": {}}', "tune again"),
        ('{"schema": "whet.tuning.9", "entries": {}}', "tune again"),
        ('{"schema": "whet.tuning.2", "entrys": {}}', "whet tune"),
        ('{"entries": {"a": {"answer": {"size": "x"}}}}', "whet tune"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(OptionError) as caught:
        read_tuning(tmp_path / "t.json")
    assert hint in str(caught.value)
    with pytest.raises(OptionError):
        read_tuning(tmp_path / "missing.json")


def test_impossible_schedules_are_refused(model: Path, tmp_path: Path) -> None:
    asked = ask_schedules(model, options=OPTIONS).asked
    for group in asked.values():
        for question, answer in group.items():
            for wrong in (Answer(3, answer.tile), Answer(answer.size, None if answer.size else
                          replace(answer.tile, rows=99) if answer.tile else None)):  # fmt: skip
                if wrong == answer:
                    continue
                file = save_answers(tmp_path / "t.json", {question.key: wrong})
                with pytest.raises(OptionError, match="cannot be carried out"):
                    ask_schedules(model, options=dataclasses.replace(OPTIONS, tuning=file))


def test_a_missing_file_is_one_error(model: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        whet.compile(model, options=dataclasses.replace(OPTIONS, tuning="missing.json"))


def test_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"tune {model.name} --threads 1 --seconds 0.1"
    assert run_command([*line.split(), "--json"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "whet.tune.1"
    assert facts["trials"] >= 1
    assert json.loads(Path("m.tuning.json").read_text())["schema"] == FORM
    line = "compile m.onnx --threads 1 --tuning m.tuning.json"
    assert run_command(line.split()) == exits.OK
    assert run_command("compile m.onnx --tuning missing.json".split()) == exits.USAGE
    assert run_command("tune m.whet".split()) != exits.OK
    assert "ONNX file" in capsys.readouterr().err

"""What became of every node, and rewrites that have to pay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.measure import keep_faster as module
from whet.measure.accuracy.recipe import Recipe
from whet.measure.fates import trace_nodes
from whet.measure.versus import Versus
from whet.options import Options
from whet.tests.small_models import write_layer
from whet.tests.test_optimize import conv_bn_relu


def test_fused_and_folded_nodes_are_found() -> None:
    model = conv_bn_relu()
    model.graph.node[1].name, model.graph.node[2].name = "bn", "relu"
    program = whet.compile(model, options=Options(threads=1)).program
    fates = {fate.node: fate for fate in trace_nodes(model, program)}
    assert set(fates) == {"conv", "bn", "relu"}
    assert all(fate.launches for fate in fates.values())
    assert "relu" in fates["bn"].with_nodes
    switched = Options(threads=1, passes={"fold_batchnorm": False}, opt_level=0)
    apart = trace_nodes(model, whet.compile(model, options=switched).program)
    assert len({fate.kernels[-1] for fate in apart}) == 3


def test_nodes_of_constants_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(write_layer(tmp_path / "m.onnx"))
    model.graph.node.insert(0, onnx.helper.make_node("Neg", ["b"], ["n"], name="negate"))
    model.graph.node[1].input[2] = "n"
    onnx.save(model, tmp_path / "m.onnx")
    line = ["inspect", str(tmp_path / "m.onnx"), "--nodes", "--threads", "1"]
    assert run_command([*line, "--json"]) == exits.OK
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [(n["node"], bool(n["launches"])) for n in nodes] == [
        ("negate", False), ("dense", True), ("activate", True),
    ]  # fmt: skip
    assert run_command(line) == exits.OK
    assert "folded, merged or not needed" in capsys.readouterr().out
    assert run_command(["inspect", "m.whet", "--nodes"]) == exits.USAGE


def verdict(word: Any, ratio: float) -> Versus:
    return Versus(
        ratio=ratio, low=ratio, high=ratio, confidence=0.99, verdict=word, rounds=1, paired=True,
        precise=True,
    )  # fmt: skip


def test_rewrites_that_do_not_pay_are_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(conv_bn_relu(), tmp_path / "m.onnx")
    seen: list[tuple[int, int]] = []
    answers = [verdict("no significant difference", 1.0), verdict("faster", 0.9)]

    def judge(first: Any, second: Any, inputs: Any, ends: Any) -> Versus:
        seen.append((len(first.program.program.launches), len(second.program.program.launches)))
        return answers[len(seen) - 1]

    monkeypatch.setattr(module, "compare_runners", judge)
    recipe = Recipe(Options(threads=1, opt_level=1))
    names = ["fold_batchnorm", "fold_scale"]
    trials = module.keep_faster(tmp_path / "m.onnx", recipe, [{}], names)
    assert [(t.name, t.kept) for t in trials] == [("fold_batchnorm", False), ("fold_scale", True)]
    assert seen[0][0] == seen[0][1] + 1  # folding saves a launch
    assert seen[1][0] == seen[0][0]  # what lost stays off


def test_optimize_keeps_what_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_bn_relu("n"), "m.onnx")
    for word, left in (("slower", 3), ("faster", 2)):
        monkeypatch.setattr(module, "compare_runners", lambda *_, w=word, **__: verdict(w, 1.0))
        line = "optimize m.onnx -o o.onnx --keep-if-faster --dim n=2"
        assert run_command(line.split()) == exits.OK
        assert len(onnx.load("o.onnx").graph.node) == left
    assert "fold_batchnorm: switched off" in capsys.readouterr().out

"""``whet check``: everything unsupported at once, costs as the compiled model has them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.check import ALL_NATIVE, UNSUPPORTED, WITH_CAVEATS, check
from whet.cli.main import run_command
from whet.tests.small_models import layer_model, write_layer


def _unsupported() -> onnx.ModelProto:
    """Return a model with two operators that nobody knows and one of another domain."""
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Bar", ["b"], ["c"], name="second", domain="mine"),
        helper.make_node("Foo", ["c"], ["y"], name="third"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_all_that_is_unsupported_is_named_at_once() -> None:
    report = check(_unsupported())
    assert report.verdict == UNSUPPORTED
    found = {(p.node, p.op.rpartition(":")[2]) for p in report.problems}
    assert found == {("first", "Foo"), ("second", "Bar"), ("third", "Foo")}
    assert all(p.reason for p in report.problems)


def test_nodes_without_names_are_named_once_each() -> None:
    model = _unsupported()
    for node in model.graph.node:
        node.name = ""
    problems = check(model).problems
    assert {(p.node, p.op) for p in problems} == {
        ("Foo_a", "Foo"), ("Bar_c", "mine::Bar"), ("Foo_y", "Foo"),
    }  # fmt: skip
    assert len(problems) == 3


def test_costs_are_those_of_the_compiled_model() -> None:
    for batch in (2, "n"):
        options = whet.Options(threads=1)
        report = check(layer_model(batch), options=options, assumed=1)
        compiled = whet.compile(layer_model(batch), options=options)
        stats, launches = compiled.stats, compiled.program.launches
        dims = dict.fromkeys(compiled.program.dims, 1)
        assert report.verdict == (WITH_CAVEATS if batch == "n" else ALL_NATIVE)
        assert report.places == {"native": stats.launches}
        assert report.weight_bytes == stats.weight_bytes
        assert report.arena_bytes == stats.arena_bytes
        assert report.flops == sum(x.flops.evaluate(dims) for x in launches)
        assert sum(report.ops.values()) == stats.launches
    larger = check(layer_model("n"), options=whet.Options(threads=1), assumed=10)
    assert larger.flops == 10 * report.flops


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(_unsupported(), tmp_path / "bad.onnx")
    files = {
        tmp_path / "bad.onnx": UNSUPPORTED,
        write_layer(tmp_path / "open.onnx", batch="n"): WITH_CAVEATS,
        write_layer(tmp_path / "fixed.onnx"): ALL_NATIVE,
    }
    for path, verdict in files.items():
        assert run_command(["check", str(path)]) == verdict
        text = capsys.readouterr().out
        assert ("unsupported  first (Foo)" in text) == (verdict == UNSUPPORTED)
        assert run_command(["check", str(path), "--json"]) == verdict
        report = json.loads(capsys.readouterr().out)
        assert (report["schema"], report["verdict"]) == ("whet.check.1", verdict)
    assert run_command(["check", str(tmp_path / "none.onnx")]) == 3

"""Profiles: figures from known stamps, real programs, files that others open, findings."""

from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.index import as_poly
from whet.measure.machine import Limits
from whet.measure.profile.advice import advise
from whet.measure.profile.counters import count_events
from whet.measure.profile.launches import RunTimes, profile_model, summarise_runs
from whet.measure.profile.memory_timeline import trace_memory
from whet.measure.profile.roofline import place_launches
from whet.measure.profile.tables import chrome_trace, memory_table, op_statistic, op_summary
from whet.options import Options
from whet.program.plan import plan_memory
from whet.program.records import Content, Program
from whet.runtime.profile import ProfiledRuns
from whet.tests.small_models import write_layer
from whet.tests.toys import make_program

STEPS = [("mix", 0, 1), ("sub", 2, 1), ("mix", 3, 2)]
LIMITS = Limits(threads=2, gflops=100.0, read_gbytes=10.0)


def stamped() -> tuple[Program, RunTimes]:
    """Return a program of three launches and two runs of it, the second twice as slow."""
    program = make_program(STEPS, [4], threads=2)
    run = np.array(
        [
            [[1000, 3000], [3500, 5500], [6000, 10000]],
            [[1000, 2000], [0, 0], [6000, 8000]],
        ],
        np.int64,
    )
    stamps = np.stack([run, 2 * run])
    recorded = ProfiledRuns(stamps, np.array([10000, 20000]), np.array([10000, 16000]))
    return program, summarise_runs(program, recorded, {})


def test_figures_from_known_stamps() -> None:
    _, times = stamped()
    first, second, third = times.launches
    assert [x.span_us for x in times.launches] == [3.0, 3.0, 6.0]
    assert [x.busy_us for x in times.launches] == [4.5, 3.0, 9.0]
    assert [x.start_us for x in times.launches] == [0.0, 5.0, 10.0]
    assert first.wait_us == 0
    assert second.wait_us == pytest.approx(0.75)
    assert third.wait_us == pytest.approx(1.5 * (0.5 + 4.0))
    assert first.balance == pytest.approx(0.75)
    assert sum(x.share for x in times.launches) == pytest.approx(1.0)
    assert (times.wall_us, times.plain_us) == (15.0, 13.0)
    assert times.overhead == pytest.approx((1.0 + 1.25) / 2 - 1)
    assert times.covered == pytest.approx(0.8)


def test_roofline_of_known_work() -> None:
    _, times = stamped()
    roofline = place_launches(times, LIMITS)
    assert roofline.ridge == 10.0
    rate, launch = roofline.rates[2], times.launches[2]
    assert launch.flops == 32
    assert launch.bytes == 3 * 256
    assert rate.gbytes == pytest.approx(768 / 6000)
    assert rate.intensity == pytest.approx(32 / 768)
    assert rate.bound == "memory"
    assert roofline.rates[0].bound == "overhead"
    assert rate.ideal_us == pytest.approx(768 / 10e9 * 1e6)


def test_memory_over_time_is_what_the_plan_needs() -> None:
    steps = [("mix", 0, 1), ("sub", 2, 1), ("mix", 3, 0), ("sub", 4, 4), ("mix", 5, 2)]
    program = make_program(steps, [6])
    timeline = trace_memory(program, {}, threads=2)
    assert timeline.arena_bytes == plan_memory(program, {}, threads=2).arena_bytes
    assert timeline.peak_bytes <= timeline.arena_bytes <= timeline.temporary_bytes
    assert timeline.scratch_bytes == 2 * (64 + 64)
    assert timeline.temporary_bytes == 4 * 256 + 5 * timeline.scratch_bytes
    for step in timeline.steps:
        alive = [b for b in timeline.buffers if b.first <= step.last and step.first <= b.last]
        assert sum(b.bytes for b in alive) == step.live_bytes
    held = timeline.buffers[0]
    assert (held.first, held.last) == (0, 4)
    assert held.writers == ("mix_4",)
    assert (
        sum(b.bytes for b in timeline.buffers if b.buffer in timeline.at_peak)
        == timeline.peak_bytes
    )


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_tables_are_csv() -> None:
    program, times = stamped()
    rows = rows_of(op_summary(program, times, place_launches(times, LIMITS)))
    assert [row["Op Name"] for row in rows] == ["node0", "node1", "node2"]
    assert float(rows[2]["Task Duration(us)"]) == 6.0
    assert (rows[2]["Input Bytes"], rows[2]["Output Bytes"]) == ("512", "256")
    groups = rows_of(op_statistic(times))
    assert [(g["OP Type"], g["Count"]) for g in groups] == [("mix", "2"), ("sub", "1")]
    assert sum(float(g["Ratio(%)"]) for g in groups) == pytest.approx(100, abs=0.1)
    memory = rows_of(memory_table(trace_memory(program, {})))
    assert sorted(row["Name"] for row in memory) == [*["scratch"] * 3, "t2", "t3"]


def summary_of(
    model: onnx.ModelProto | Path, feeds: dict[str, Any], **options: Any
) -> list[dict[str, str]]:
    """Return the rows of the summary of one run."""
    compiled = whet.compile(model, options=Options(threads=1, **options))
    times = profile_model(compiled, feeds, 1)
    return rows_of(op_summary(compiled.program, times, place_launches(times, LIMITS)))


def test_summary_has_shapes_types_and_orders() -> None:
    weights = {"w": np.ones((32, 16, 3, 3), np.float32), "b": np.ones(32, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["top"], to=onnx.TensorProto.BFLOAT16),
    ]
    x = helper.make_tensor_value_info("x", 1, ["batch", 16, 9, 11])
    y = helper.make_tensor_value_info("y", 1, ["batch", 32, 9, 11])
    top = helper.make_tensor_value_info("top", onnx.TensorProto.BFLOAT16, [])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y, top], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = summary_of(model, {"x": np.zeros((3, 16, 9, 11), np.float32)}, opt_level=2)
    assert rows[0]["Input Shapes"] == "3,16,9,11"
    assert (rows[0]["Input Data Types"], rows[0]["Input Formats"]) == ("FLOAT", "ND")
    (product,) = [row for row in rows if row["OP Type"] == "Conv+Relu"]
    assert product["Input Shapes"] == "3,16,11,13;32,16,3,3;32"
    assert product["Input Data Types"] == "FLOAT;FLOAT;FLOAT"
    assert product["Input Formats"] == "ND;PACKED;ND"
    assert (product["Output Shapes"], product["Output Formats"]) == ("3,9,11,32", "NHWC")
    (last,) = [row for row in rows if "Cast" in row["OP Type"]]
    assert (last["Output Shapes"], last["Output Data Types"]) == ("", "DT_BF16")
    (back,) = [row for row in rows if row["Output Shapes"] == "3,32,9,11"]
    assert back["Output Formats"] == "ND"


def test_summary_leaves_out_what_is_no_operand() -> None:
    program, times = stamped()
    held = [
        msgspec.structs.replace(b, content=Content("int64", (as_poly(k), as_poly(8)), "ND"))
        for k, b in enumerate(program.buffers)
    ]
    held[2] = msgspec.structs.replace(held[2], content=None)
    fetching = msgspec.structs.replace(program.launches[0], fetched=(1,))
    launches = (fetching, *program.launches[1:])
    known = msgspec.structs.replace(program, buffers=tuple(held), launches=launches)
    rows = rows_of(op_summary(known, times, place_launches(times, LIMITS)))
    assert [r["Input Shapes"] for r in rows] == ["0,8", "1,8", "3,8"]
    assert [r["Input Bytes"] for r in rows] == ["256", "512", "512"]
    assert [r["Output Shapes"] for r in rows] == ["", "3,8", "4,8"]
    for row in rows_of(op_summary(program, times, place_launches(times, LIMITS))):
        assert {row[k] for k in row if k.split()[-1] in ("Shapes", "Types", "Formats")} == {""}


def test_trace_has_every_thread_and_the_memory() -> None:
    program, times = stamped()
    trace: dict[str, Any] = json.loads(
        json.dumps(chrome_trace(times, trace_memory(program, {}), "m"))
    )
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(spans) == 5
    assert {e["tid"] for e in spans} == {0, 1}
    assert all(e["dur"] > 0 and e["ts"] >= 0 for e in spans)
    assert [e for e in trace["traceEvents"] if e["ph"] == "C"]


def test_findings_are_ranked_and_say_why() -> None:
    program, times = stamped()
    found = advise(program, times, place_launches(times, LIMITS))
    assert [f.saves_us for f in found] == sorted((f.saves_us for f in found), reverse=True)
    kinds = {f.kind for f in found}
    assert "low parallelism" in kinds
    assert "movement" not in kinds


def test_findings_weigh_what_they_save_of_a_whole_run() -> None:
    program, times = stamped()
    busy = advise(program, times, place_launches(times, LIMITS))
    assert "high" in {f.severity for f in busy}
    mostly_python = msgspec.structs.replace(times, plain_us=times.plain_us + 1e6)
    found = advise(program, mostly_python, place_launches(mostly_python, LIMITS))
    assert {f.severity for f in found} == {"low"}


def _branching() -> onnx.ModelProto:
    """Return a model with a transposed output and a value that two nodes read."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Exp", ["m"], ["e"], name="exp"),
        helper.make_node("MatMul", ["e", "w"], ["a"]),
        helper.make_node("Add", ["e", "a"], ["s"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0], name="turn"),
    ]
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    values = [helper.make_tensor_value_info(n, 1, (64, 64)) for n in ("x", "s", "t")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_profile_of_a_compiled_model() -> None:
    model = whet.compile(_branching(), options=Options(threads=2))
    feeds = {"x": np.zeros((64, 64), np.float32)}
    times = profile_model(model, feeds, 5)
    assert (times.threads, times.runs) == (2, 5)
    assert all(x.span_us > 0 and 0 < x.balance <= 1 for x in times.launches)
    assert 0 < times.covered <= 1
    found = advise(model.program, times, place_launches(times, LIMITS))
    (moves,) = [f for f in found if f.kind == "movement"]
    assert [model.program.launches[k].nodes for k in moves.launches] == [("turn",)]


def test_run_time_dimensions_count(tmp_path: Path) -> None:
    model = whet.compile(write_layer(tmp_path / "m.onnx", "batch"), options=Options(threads=1))
    small, large = (profile_model(model, {"x": np.zeros((n, 4), np.float32)}, 1) for n in (3, 300))
    assert (small.dims, large.dims) == ({"batch": 3}, {"batch": 300})
    assert sum(x.flops for x in large.launches) == 100 * sum(x.flops for x in small.launches)


def test_counters_count_or_say_why_not() -> None:
    found = count_events(lambda: sum(range(1000)))
    assert bool(found.counts) != bool(found.problem)


def test_machines_without_counters_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.measure.profile.counters._open", lambda _: (-1, errno.ENOENT))
    assert "the processor offers none here" in count_events(lambda: None).problem


def test_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_layer(tmp_path / "m.onnx")
    folder = tmp_path / "out"
    line = ["profile", str(path), "--threads", "1", "--runs", "3", "-o", str(folder)]
    assert run_command([*line, "--json"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "whet.profile.1"
    assert facts["times"]["launches"][0]["nodes"]
    names = {"op_summary.csv", "op_statistic.csv", "memory.csv", "trace.json", "profile.json"}
    assert {p.name for p in folder.iterdir()} == names
    assert json.loads((folder / "profile.json").read_text())["memory"] == facts["memory"]
    assert run_command(line) == exits.OK
    assert "GFLOP/s measured" in capsys.readouterr().out

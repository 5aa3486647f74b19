"""Graphs as ONNX files: what passes are said to save, opsets, switch and strategy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import OptionError, UnsupportedError
from whet.graph.opset import canonical_opset
from whet.measure.accuracy.reference import run_golden
from whet.optimize.cost import graph_cost
from whet.optimize.opset import OLDEST, lower_opset, misfits
from whet.optimize.optimize import optimize_graph
from whet.optimize.strategy import read_strategy, strategy_schema
from whet.optimize.switches import ASCEND_PASSES, read_switches
from whet.passes.pipeline import REWRITES, pass_names
from whet.tests.passkit import build

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "schemas" / "optimization_config.json"
REWRITES_OFF = {entry.name: False for entry in REWRITES}


def conv_bn_relu(batch: int | str = 1) -> onnx.ModelProto:
    """Return Conv, BatchNormalization and Relu."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 4, 3, 3)),
        **{name: rng.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", 1, (batch, 4, 6, 6))
    y = helper.make_tensor_value_info("y", 1, (batch, 8, 6, 6))
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_optimised_graph_means_the_same_and_says_what_was_saved() -> None:
    model = conv_bn_relu()
    made = optimize_graph(model)
    assert [n.op_type for n in made.model.graph] == ["Conv", "Relu"]
    proto = ir.to_proto(made.model)
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)}
    before, after = (run_golden(m, feeds).values["y"] for m in (model, proto))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    fold = next(p for p in made.report.passes if p.name == "fold_batchnorm")
    assert (fold.rewrites, fold.nodes_before, fold.nodes_after, fold.nodes_saved) == (1, 3, 2, 1)
    plane = 8 * 6 * 6 * 4
    assert fold.bytes_saved == 2 * plane + 4 * 32 - 32  # the node is gone, a bias is added
    assert fold.flops_saved == 8 * 6 * 6
    report = made.report
    assert report.before.bytes - report.after.bytes == sum(p.bytes_saved for p in report.passes)
    assert (report.before.nodes, report.after.nodes, report.opset) == (3, 2, OLDEST)


def test_level_and_switches_hold() -> None:
    assert len(list(optimize_graph(conv_bn_relu(), opt_level=0).model.graph)) == 3
    assert len(list(optimize_graph(conv_bn_relu(), passes={"fold_batchnorm": 0}).model.graph)) == 3


def test_cost_of_known_nodes() -> None:
    model = build("g (float[2,3] x, float[3,5] w) => (float[2,5] y) { y = MatMul(x, w) }")
    expected = {"nodes": 1, "bytes": 4 * (6 + 15 + 10), "flops": 2 * 2 * 5 * 3}
    assert msgspec.to_builtins(graph_cost(model)) == expected


def test_opset_is_the_lowest_that_has_everything() -> None:
    model = build("g (float[2,4] x) => (float[2,4] y) { y = Swish(x) }")
    assert misfits(model, 23) == ["Swish (no such operator)"]
    with pytest.raises(UnsupportedError, match="Swish"):
        lower_opset(model, 22)
    assert lower_opset(model) == 24
    assert ir.to_proto(model).opset_import[0].version == 24
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for version in (OLDEST - 1, canonical_opset() + 1):
        with pytest.raises(OptionError):
            lower_opset(model, version)


def test_types_that_an_older_opset_lacks() -> None:
    model = build("g (bfloat16[2,4] x) => (bfloat16[2,4] y) { y = Sin(x) }")
    assert misfits(model, 21) == ["Sin (type tensor(bfloat16))"]
    assert lower_opset(model) == 22


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ConvBatchnormFusionPass:off\n\nGelu:on", None),
        ("PadConv2dFusionPass:off\n\nfuse_gelu : on\n", {"fold_pad": False, "fuse_gelu": True}),
        ('{"fuse_gelu": "off"}', {"fuse_gelu": False}),
        (
            '{"Switch": {"GraphFusion": {"fuse_gelu": "on", "ALL": "off"}, "UBFusion": {}}}',
            {**REWRITES_OFF, "fuse_gelu": True},
        ),
        ("fuse_gelu", None),
        ("fuse_gelu:maybe", None),
        ("{", None),
        ('{"Switch": 1}', None),
    ],
)
def test_switch_files(text: str, expected: dict[str, bool] | None, tmp_path: Path) -> None:
    path = tmp_path / "fusion.cfg"
    path.write_text(text)
    if expected is not None:
        assert read_switches(path) == expected
        return
    with pytest.raises(OptionError):
        read_switches(path)


def test_names_of_ascend_stand_for_passes_that_exist(tmp_path: Path) -> None:
    assert {name for names in ASCEND_PASSES.values() for name in names} <= set(pass_names())
    with pytest.raises(OptionError):
        read_switches(tmp_path / "missing")


FULL: dict[str, Any] = {
    "optimization_version": "2.0",
    "model_info": {"input_model": "m.onnx", "output_model": "o.onnx"},
    "graph_optimization": {
        "enable_operator_fusion": True,
        "fusion_patterns": [
            {"pattern_name": "conv_bn_relu", "enabled": True},
            {"pattern_name": "matmul_add", "enabled": False},
        ],
        "enable_constant_folding": True,
        "enable_memory_reuse": True,
    },
    "compilation_config": {"input_format": "NCHW", "output_type": "FP32"},
    "operator_tuning": {
        "convolution": {"tile_size": "auto", "enable_winograd": False, "precision_mode": "fp32"},
        "fully_connected": {"enable_batch_merge": True},
    },
    "dynamic_shape_config": {
        "enable_dynamic_shape": True,
        "shape_ranges": {"x": [[1, 4, 6, 6], [8, 4, 6, 6]]},
        "optimization_strategy": "symbolic",
    },
    "stream_config": {
        "num_streams": 1,
        "stream_priority": "normal",
        "enable_cross_stream_memory_reuse": False,
    },
}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_every_key_of_the_strategy_file(tmp_path: Path) -> None:
    found = read_strategy(write(tmp_path / "c.json", FULL))
    assert (found.input_model, found.output_model) == (tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert found.opt_level == 2
    assert found.passes == {"merge_matmuls": True, "fold_batchnorm": True, "fuse_matmul_add": False}
    assert found.shapes == {"x": ("x_0", 4, 6, 6)}
    graph = {
        "enable_operator_fusion": False,
        "fusion_patterns": [{"pattern_name": "gelu"}],
        "enable_constant_folding": False,
    }
    off = {**FULL, "graph_optimization": graph, "operator_tuning": {}}
    passes = read_strategy(write(tmp_path / "c.json", off)).passes
    assert passes == {**REWRITES_OFF, "fuse_gelu": True, "fold_constants": False}


@pytest.mark.parametrize(
    ("section", "change", "hint"),
    [
        ("operator_tuning", {"convolution": {"tile_size": [16, 16]}}, "cost model"),
        ("compilation_config", {"output_type": "FP16"}, "types of the model"),
        ("compilation_config", {"input_format": "NHWC"}, "layout of the model"),
        ("stream_config", {"enable_cross_stream_memory_reuse": True}, "memory of its own"),
        ("stream_config", {"num_streams": 2}, "whet bench"),
        ("graph_optimization", {"enable_memory_reuse": False}, "-O0"),
        ("graph_optimization", {"enable_operator_fusing": True}, "enable_operator_fusion"),
        ("graph_optimization", {"fusion_patterns": [{"pattern_name": "gelo"}]}, "gelu"),
        ("dynamic_shape_config", {"shape_ranges": {"x": [[1], [2]]}}, "enable_dynamic_shape"),
        ("dynamic_shape_config", {"shape_ranges": {"x": [[2], [1]]}}, "smallest"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    section: str, change: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "c.json", {"optimization_version": "2.0", section: change})
    with pytest.raises(OptionError, match=hint):
        read_strategy(path)


def test_published_schema_is_that_of_the_code() -> None:
    made = json.loads(msgspec.json.encode(strategy_schema()))
    assert json.loads(SCHEMA_FILE.read_text()) == made


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_bn_relu(), "m.onnx")
    assert run_command("optimize m.onnx --report r.json".split()) == exits.OK
    assert "3 → 2" in capsys.readouterr().out
    report = json.loads(Path("r.json").read_text())
    assert report["schema"] == "whet.optimize.1"
    assert len(onnx.load("m.opt.onnx").graph.node) == 2
    line = "optimize m.onnx -o k.onnx --pass fold_batchnorm=off --json"
    assert run_command(line.split()) == exits.OK
    assert len(onnx.load("k.onnx").graph.node) == 3
    write(Path("c.json"), {**FULL, "model_info": {**FULL["model_info"], "input_model": "n.onnx"}})
    onnx.save(conv_bn_relu("n"), "n.onnx")
    assert run_command("optimize --config c.json".split()) == exits.OK
    dims = onnx.load("o.onnx").graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "x_0"
    Path("f.cfg").write_text("ALL:off")
    assert run_command("optimize m.onnx -o l.onnx --switch-file f.cfg".split()) == exits.OK
    assert len(onnx.load("l.onnx").graph.node) == 3
    assert run_command(["optimize"]) == exits.USAGE

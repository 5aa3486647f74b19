"""What ``compile`` returns and leaves behind: graph, facts, progress, memory, equal files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.tests.small_models import layer_model

WEIGHTS = np.random.default_rng(0).standard_normal((64, 64), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one small and one large constant."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Add", ["h", "b"], ["y"], name="shift"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 64))],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(WEIGHTS[0], "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_graph_is_kept_without_large_weights(path: Path) -> None:
    """It is a valid model; the large constant is an input, the small one is there."""
    whet.compile(path).save(path.with_suffix(".whet"))
    loaded = whet.load(path.with_suffix(".whet"))
    assert loaded.graph is not None
    graph = onnx.load_from_string(bytes(loaded.graph))
    onnx.checker.check_model(graph)
    assert [i.name for i in graph.graph.input] == ["x", "w"]
    assert [t.name for t in graph.graph.initializer] == ["b"]
    assert len(loaded.graph) < WEIGHTS.nbytes / 4


def test_the_file_says_where_it_comes_from(path: Path) -> None:
    """Options, shapes, versions and source are noted; equal compilations give equal files."""
    options = whet.Options(threads=1, passes={"fuse_gelu": False}, cache_dir="")
    model = whet.compile(path, shapes={"x": (2, 64)}, options=options)
    facts = model.metadata
    assert json.loads(facts["options"]) == {
        "threads": 1,
        "opt_level": 3,
        "passes": {"fuse_gelu": False},
        "target": "host",
    }
    assert json.loads(facts["shapes"]) == {"x": [2, 64]}
    assert facts["source"] == "net.onnx"
    assert facts["whet"] == whet.__version__
    for name in ("a.whet", "b.whet"):
        whet.compile(path, options=options).save(path.with_name(name))
    assert path.with_name("a.whet").read_bytes() == path.with_name("b.whet").read_bytes()
    other = whet.compile(path.read_bytes()).metadata
    assert other["source_digest"] == facts["source_digest"]
    third = whet.compile(layer_model().SerializeToString()).metadata
    assert other["source_digest"] != third["source_digest"]


def test_progress_runs_through_all_stages(path: Path) -> None:
    """Every stage begins at 0 or more and ends complete, in order."""
    seen: list[tuple[str, int, int]] = []
    whet.compile(
        path,
        options=whet.Options(threads=1, cache_dir=""),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["load", "optimise", "lower", "pack", "compile"]
    for stage in stages:
        steps = [(done, total) for name, done, total in seen if name == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_the_source_is_let_go(path: Path) -> None:
    """A compiled model keeps no part of the file mapped."""
    model = whet.compile(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    x = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(model({"x": x})["y"], x @ WEIGHTS + WEIGHTS[0], rtol=1e-4, atol=1e-4)

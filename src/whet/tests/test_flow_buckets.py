"""Buckets: programs for some shapes beside the one for any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import InputError, ShapeError
from whet.tests.flow_models import parse

RNG = np.random.default_rng(17)


def _network() -> onnx.ModelProto:
    weights = {
        "w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": RNG.standard_normal((8, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, "h", "w2"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 5])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_each_bucket_and_what_lies_between(tmp_path: Path, threads: int) -> None:
    network, options = _network(), whet.Options(threads=threads)
    plain = whet.compile(network, options=options)
    shapes = [(1, 3, 8, 8), (4, 3, 8, 8), (2, 3, 5, 7)]
    model = whet.compile(network, shapes={"x": shapes}, options=options)
    names = ("any shape", "x: 1x3x8x8", "x: 4x3x8x8", "x: 2x3x5x7")
    assert model.stats.programs == names
    assert model.stats.weight_bytes < 2 * plain.stats.weight_bytes
    model.save(tmp_path / "m.whet")
    again = whet.load(tmp_path / "m.whet")
    assert again.program == model.program
    for shape in (*shapes, (3, 3, 8, 8), (1, 3, 9, 4)):
        x = RNG.standard_normal(shape).astype(np.float32)
        wanted = plain({"x": x})["y"]
        for ready in (model, again):
            np.testing.assert_allclose(ready({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)
            taken = names[1 + shapes.index(shape)] if shape in shapes else names[0]
            assert ready.program_for({"x": shape}) == taken
    with pytest.raises(InputError, match=r"takes|expected"):
        model({"x": np.zeros((1, 4, 8, 8), np.float32)})
    with pytest.raises(InputError, match="missing"):
        model.program_for({})


def test_buckets_may_leave_dimensions_open() -> None:
    network = _network()
    plain = whet.compile(network, options=whet.Options(1))
    shapes = {"x": [(1, 3, "h", "w2"), (2, 3, "h", "w2")]}
    model = whet.compile(network, shapes=shapes, options=whet.Options(1))
    assert model.stats.programs[1:] == ("x: 1x3x?x?", "x: 2x3x?x?")
    assert model.program_for({"x": (2, 3, 6, 5)}) == "x: 2x3x?x?"
    for rows in (1, 2, 3):
        x = RNG.standard_normal((rows, 3, 6, 5)).astype(np.float32)
        found = model({"x": x})["y"]
        np.testing.assert_allclose(found, plain({"x": x})["y"], rtol=1e-4, atol=1e-5)


SCRIPTED = """g (float[n,6] x, int64[2] s) => (float[p,q] y, float[n] z)
    <int64[1] a = {1}> {
    y = Reshape(x, s) t = Softmax(x) z = ReduceSum<keepdims=0>(t, a) }"""


def test_buckets_of_a_model_with_a_script(tmp_path: Path) -> None:
    """What data decides is read in every one of them."""
    model = whet.compile(parse(SCRIPTED), shapes={"x": [(2, 6), (5, 6)]})
    names = ("any shape", "x: 2x6, s: 2", "x: 5x6, s: 2")
    assert model.stats.programs == names
    model.save(tmp_path / "m.whet")
    for ready in (model, whet.load(tmp_path / "m.whet")):
        for rows, name in ((2, names[1]), (3, names[0]), (5, names[2])):
            x = RNG.standard_normal((rows, 6)).astype(np.float32)
            found = ready({"x": x, "s": np.array([3, -1])})
            np.testing.assert_array_equal(found["y"], x.reshape(3, -1))
            np.testing.assert_allclose(found["z"], np.ones(rows), rtol=1e-5)
            assert ready.program_for({"x": (rows, 6), "s": (2,)}) == name


def test_a_bucket_may_need_no_script() -> None:
    """Sizes that only the open program has to compare or to read."""
    text = "g (float[n,m] x) => (float[p,8] y) <int64[2] s = {-1, 8}> { y = Reshape(x, s) }"
    model = whet.compile(parse(text), shapes={"x": [(4, 6), (2, 8)]})
    for shape in ((4, 6), (2, 8), (3, 16)):
        x = RNG.standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(model({"x": x})["y"], x.reshape(-1, 8))
    with pytest.raises(ShapeError):
        model({"x": np.zeros((3, 3), np.float32)})


def test_what_cannot_be() -> None:
    with pytest.raises(ShapeError, match="go together"):
        text = "g (float[a] x, float[a] y) => (float[a] z) { z = Add(x, y) }"
        whet.compile(parse(text), shapes={"x": [(1,), (2,)], "y": [(1,)]})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "net.whet"
    onnx.save(_network(), source)
    arguments = ["compile", str(source), "-o", str(target), "--threads", "1", "--json"]
    sizes = ["--dynamic-batch", "1,2", "--dynamic-image", "8x8,5x7"]
    assert run_command([*arguments, *sizes]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert len(stats["programs"]) == 5
    assert whet.load(target).program_for({"x": (2, 3, 5, 7)}) == "x: 2x3x5x7"
    assert run_command([*arguments, "--dynamic-batch", "1,x"]) != 0
    capsys.readouterr()
    assert run_command([*arguments, "--dynamic-dims", "2,5,7;1,8,8"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert len(stats["programs"]) == 3
    assert whet.load(target).program_for({"x": (2, 3, 5, 7)}) == "x: 2x3x5x7"
    assert run_command([*arguments, "--dynamic-dims", "2,5;1,8"]) == exits.USAGE
    assert "give one for each of: x[0], x[2], x[3]" in capsys.readouterr().err
    assert run_command([*arguments, "--dynamic-dims", "2,x,7"]) == exits.USAGE
    assert run_command([*arguments, "--dynamic-dims", "2,5,7", *sizes]) == exits.USAGE
    capsys.readouterr()

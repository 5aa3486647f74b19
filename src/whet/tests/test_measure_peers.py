"""Runtimes behind the one protocol, and their memory in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from whet.errors import OptionError, ResourceError, WhetError
from whet.measure.memory import measure_memory
from whet.measure.peers import OrtRunner, TorchRunner, file_runner
from whet.measure.runner import Inputs

INPUTS: Inputs = {"x": np.array([[-1.0, 2.0]], np.float32)}


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "relu", ports[:1], ports[1:]
    )
    path = tmp_path / "relu.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "package"), [("ort", "onnxruntime"), ("openvino", "openvino"), ("whet", "llvmlite")]
)
def test_file_runners_run(name: str, package: str, relu: Path) -> None:
    pytest.importorskip(package)
    runner = file_runner(name, relu, threads=1)
    runner.prepare()
    outputs = runner.run(INPUTS)
    np.testing.assert_array_equal(outputs["y"], [[0.0, 2.0]])


@pytest.mark.peer
def test_torch_runner_names_its_outputs() -> None:
    torch = pytest.importorskip("torch")
    runner = TorchRunner(torch.nn.ReLU, 1, ("y",))
    runner.prepare()
    np.testing.assert_array_equal(runner.run(INPUTS)["y"], [[0.0, 2.0]])


def test_unknown_runtime_is_named_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="openvino"):
        file_runner("openvin", Path("m.onnx"), threads=1)


def test_absent_peer_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(WhetError, match="pip install onnxruntime"):
        OrtRunner(Path("m.onnx"), 1).prepare()


@pytest.mark.peer
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_fresh_process(relu: Path) -> None:
    pytest.importorskip("onnxruntime")
    used = measure_memory("ort", relu, INPUTS, threads=1)
    assert 0 < used.before_bytes < used.after_bytes <= used.peak_bytes
    assert used.prepare_s > 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_what_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="ended with status"):
        measure_memory("whet", tmp_path / "absent.onnx", INPUTS, threads=1)

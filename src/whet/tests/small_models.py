"""Small ONNX models and a stand-in for a compiled one, for tests of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from whet.index import as_poly
from whet.program.records import FusedGroup, Launch, Program, Stats, TargetInfo, TensorSpec

Array = npt.NDArray[Any]
WEIGHTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
BIAS = np.array([0.5, -0.5, 0.0], np.float32)


def layer_model(batch: int | str = 2) -> onnx.ModelProto:
    """Return ``y = relu(x · W + b)`` for x of shape (batch, 4)."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"),
        helper.make_node("Relu", ["h"], ["y"], name="activate"),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (batch, 4))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (batch, 3))],
        initializer=[numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_layer(path: Path, batch: int | str = 2) -> Path:
    """Write ``layer_model`` to a file."""
    path.write_bytes(layer_model(batch).SerializeToString())
    return path


def run_layer(x: Array) -> Array:
    """Compute what ``layer_model`` means."""
    result: Array = np.maximum(x @ WEIGHTS + BIAS, 0)
    return result


class FakeModel:
    """What the command line sees of a compiled ``layer_model``, without any compiler."""

    def __init__(self, batch: int | str = 2) -> None:
        self.inputs = (TensorSpec("x", "float32", (batch, 4)),)
        self.outputs = (TensorSpec("y", "float32", (batch, 3)),)
        self.metadata = {"source": "layer.onnx"}
        group = FusedGroup("dense_0", ("dense", "activate"), ("Gemm", "Relu"))
        self.stats = Stats(
            arena_bytes=64,
            weight_bytes=60,
            code_bytes=512,
            launches=1,
            groups=(group,),
            compile_s=0.25,
            target="x86_64-unknown-linux-gnu:test",
            threads=1,
        )
        launch = Launch(
            kernel=group.kernel,
            args=(),
            writes=(),
            chunks=as_poly(1),
            waits=False,
            nodes=group.nodes,
            ops=group.ops,
            flops=as_poly(48),
            bytes=as_poly(116),
        )
        self.program = Program(
            inputs=self.inputs,
            outputs=self.outputs,
            input_shapes=(),
            output_shapes=(),
            dims=(),
            buffers=(),
            launches=(launch,),
            threads=1,
            target=TargetInfo("x86_64-unknown-linux-gnu", "test", ()),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return {"y": run_layer(inputs["x"])}

    __call__ = run

    def save(self, path: str | Path) -> None:
        """Write something."""
        Path(path).write_bytes(b"compiled")

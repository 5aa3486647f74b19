"""The network of the demonstration: ResNet-50 as the ``onnx`` package ships it, with real weights.

That file's weights are all the same constant, so that its output is 0.001 everywhere and a wrong
compiler would pass. Here every weight is random from a seed, batch-norm statistics included.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from whet.cli.opening import Array
from whet.errors import ModelError

if TYPE_CHECKING:
    import onnx

INPUT = "input"
OUTPUT = "probabilities"
SHAPE = (1, 3, 224, 224)
# Chosen by measuring: the 1,000 probabilities then lie between about 1e-8 and 0.2.
_CLASSIFIER_GAIN = 0.02

# These nodes mean the same from opset 9, the file's own, to 17. In between onnx.reference has a
# BatchNormalization-9 that takes the statistics of the batch, and would be no judge.
_OPSET = 17

Range = tuple[float, float]


def build_network(seed: int) -> onnx.ModelProto:
    """Return ResNet-50 for images of 224×224 with weights drawn from a seed.

    Raises:
        ModelError: the installed ``onnx`` package does not contain the topology.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = _load_topology().graph
    shapes = _weight_shapes(graph)
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    weights = _draw_weights(nodes, shapes, np.random.default_rng(seed))
    read = {name for node in nodes for name in node.input}
    tensors = [t for t in graph.initializer if t.name in read and t.name not in weights]
    tensors += [numpy_helper.from_array(array, name) for name, array in weights.items()]
    _rename(nodes, {graph.input[0].name: INPUT, graph.output[0].name: OUTPUT})
    float32 = onnx.TensorProto.FLOAT
    result = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info(INPUT, float32, SHAPE)],
        [helper.make_tensor_value_info(OUTPUT, float32, (1, 1000))],
        initializer=tensors,
    )
    return helper.make_model(result, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def _load_topology() -> onnx.ModelProto:
    """Read the light ResNet-50 that the ``onnx`` package carries for its tests."""
    from importlib import resources

    import onnx

    path = resources.files("onnx") / "backend/test/data/light/light_resnet50.onnx"
    if not path.is_file():
        raise ModelError(
            "the onnx package does not contain ResNet-50",
            where=str(path),
            hint="install onnx from PyPI: pip install --force-reinstall onnx",
        )
    return onnx.load_model_from_string(path.read_bytes())


def _weight_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight: stored, or made by a ConstantOfShape node."""
    from onnx import numpy_helper

    tensors = {t.name: t for t in graph.initializer}
    shapes = {name: tuple(t.dims) for name, t in tensors.items()}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = numpy_helper.to_array(tensors[node.input[0]])
            shapes[node.output[0]] = tuple(int(dim) for dim in shape)
    return shapes


def _draw_weights(
    nodes: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    generator: np.random.Generator,
) -> dict[str, Array]:
    """Draw the weights of every layer.

    Filters are scaled as He et al. do, std = √(2 / fan-in), which keeps the variance through ReLU.
    Where a residual branch ends, γ is below one, or sixteen additions would overflow the softmax.
    """
    summed = {name for node in nodes if node.op_type == "Sum" for name in node.input}
    weights: dict[str, Array] = {}

    def normal(name: str, scale: float) -> None:
        values = generator.standard_normal(shapes[name], dtype=np.float32)
        weights[name] = values * np.float32(scale)

    def uniform(name: str, bounds: Range) -> None:
        weights[name] = generator.uniform(*bounds, shapes[name]).astype(np.float32)

    for node in nodes:
        if node.op_type == "Conv":
            normal(node.input[1], math.sqrt(2 / math.prod(shapes[node.input[1]][1:])))
        elif node.op_type == "BatchNormalization":
            _, gamma, beta, mean, variance = node.input
            uniform(gamma, (0.4, 0.9) if node.output[0] in summed else (0.5, 1.5))
            normal(beta, 0.1)
            normal(mean, 0.1)
            uniform(variance, (0.5, 1.5))
        elif node.op_type == "Gemm":
            normal(node.input[1], _CLASSIFIER_GAIN / math.sqrt(shapes[node.input[1]][1]))
            normal(node.input[2], 0.1)
    return weights


def _rename(nodes: list[onnx.NodeProto], names: dict[str, str]) -> None:
    """Give values and nodes names that read well."""
    counts: dict[str, int] = {}
    for node in nodes:
        for values in (node.input, node.output):
            for position, name in enumerate(values):
                values[position] = names.get(name, name)
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        node.name = f"{node.op_type}_{counts[node.op_type]}"


def random_image(seed: int) -> Array:
    """Return an input for the network, drawn from a seed."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal(SHAPE, dtype=np.float32)

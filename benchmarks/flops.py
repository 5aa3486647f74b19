"""Floating-point operations of a model, counted from its ONNX graph.

A multiply-add is two. Only convolutions, matrix products and LSTMs are counted, as is the custom;
what they do at the border of an image (products with padding) counts as work.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import shape_inference

from benchmarks.models.export import DEFAULT_CACHE, EXPORTERS, model_path
from benchmarks.models.inputs import Array, make_inputs
from benchmarks.models.registry import MODELS

Inputs = Mapping[str, Array]
Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every output element sums over the weights of its output channel."""
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every input element meets all weights of its input channel."""
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    depth = shapes[node.input[0]][0 if _attribute(node, "transA", 0) else 1]
    return 2 * math.prod(shapes[node.output[0]]) * depth


def _lstm(node: onnx.NodeProto, shapes: Shapes) -> int:
    """W is (directions, 4H, inputs) and R is (directions, 4H, H); both once per step."""
    steps, batch, _ = shapes[node.input[0]]
    weights = math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]])
    return 2 * steps * batch * weights


COUNTERS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _lstm,
}


def _known_shapes(graph: onnx.GraphProto) -> Shapes:
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _executed_shapes(model: onnx.ModelProto, names: list[str], inputs: Inputs) -> Shapes:
    """Run the model in ONNX Runtime with tensors made outputs, and return their shapes."""
    import onnxruntime as ort

    known = {value.name for value in model.graph.output}
    fresh = [name for name in names if name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fresh)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    results = session.run(names, dict(inputs))
    return {name: result.shape for name, result in zip(names, results, strict=True)}


def count_flops(path: Path, inputs: Inputs) -> int:
    """Return the operations of one run.

    Args:
        path: the model.
        inputs: one feed, with which the model is run if inference leaves a shape unknown, as
            where an exporter wrote shape arithmetic into the graph.
    """
    model = onnx.load(path)
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes = _known_shapes(inferred.graph)
    nodes = [node for node in inferred.graph.node if node.op_type in COUNTERS]
    needed = {name for node in nodes for name in (*node.input[:3], node.output[0]) if name}
    if missing := sorted(needed - shapes.keys()):
        shapes |= _executed_shapes(inferred, missing, inputs)
    return sum(COUNTERS[node.op_type](node, shapes) for node in nodes)


def main() -> None:
    """Print the operations of the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--exporter", choices=EXPORTERS, default="torchscript")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    for name in arguments.models:
        path = model_path(name, arguments.exporter, arguments.cache)
        flops = count_flops(path, make_inputs(MODELS[name].inputs, seed=0))
        print(f"{name:24} {flops / 1e9:8.3f} GFLOP")


if __name__ == "__main__":
    main()

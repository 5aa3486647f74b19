"""Chains of products and functions, to plant faults in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from whet.measure.accuracy.graphs import (
    input_specs,
)


def chain(ops: list[str], width: int = 8) -> onnx.ModelProto:
    """Return a chain of ``MatMul`` and the named unary operators in turn."""
    nodes, constants, last = [], [], "x"
    rng = np.random.default_rng(0)
    for number, op in enumerate(ops):
        weight = rng.standard_normal((width, width)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node(op, [f"m{number}"], [f"a{number}"], name=f"act{number}"))
        last = f"a{number}"
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (3, width))
    y = helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, (3, width))
    graph = helper.make_graph(nodes, "chain", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def biased_chain(layers: int) -> onnx.ModelProto:
    """Return products with biases, which ``fold_scale`` turns into Gemm, and Tanh between."""
    model = chain(["Tanh"] * layers)
    nodes = []
    for number in range(layers):
        matmul, tanh = model.graph.node[2 * number : 2 * number + 2]
        bias = np.linspace(-1, 1, 8, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(bias, f"b{number}"))
        add = helper.make_node("Add", [f"m{number}", f"b{number}"], [f"s{number}"])
        tanh.input[0] = f"s{number}"
        nodes += [matmul, add, tanh]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        s.name: rng.standard_normal([d for d in s.shape if isinstance(d, int)]).astype(s.dtype)
        for s in input_specs(model)
    }


def spoil_gemm(graph: ir.Graph, node: ir.Node) -> None:
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.5)

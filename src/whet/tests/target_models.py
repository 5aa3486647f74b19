"""Small whole models of every kind of kernel, at sizes that no vector width divides."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
OPSET = 20


class Sketch:
    """A graph being written: nodes, seeded weights, inputs."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def given(self, name: str, shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> str:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def weight(self, *shape: int, scale: float | None = None, shift: float = 0.0) -> str:
        """Add normal random weights, by default scaled to keep the variance."""
        fan = np.prod(shape[1:]) if len(shape) > 1 else 1
        wide = self._rng.standard_normal(shape) * (scale or fan**-0.5) + shift
        return self.constant(wide.astype(np.float32))

    def constant(self, value: Array | np.float32) -> str:
        """Add a constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return its first output."""
        name = f"v{len(self._nodes)}"
        names = [name, *(f"{name}.{k}" for k in range(1, outputs))]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return name

    def finish(self, *outputs: str) -> onnx.ModelProto:
        """Return the model."""
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        graph = helper.make_graph(self._nodes, "sketch", self._inputs, infos, self._weights)
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def convolutions() -> onnx.ModelProto:
    """Return a net with strided, padded, depthwise, grouped, dilated and 1x1 convolutions."""
    g = Sketch(1)
    x = g.given("x", (1, 3, 37, 33))
    h = g.op("Conv", x, g.weight(19, 3, 7, 7), g.weight(19), strides=[2, 2], pads=[3, 3, 3, 3])
    scale, shift = g.weight(19, scale=0.1, shift=1), g.weight(19)
    mean, variance = g.weight(19), g.weight(19, scale=0.1, shift=1)
    h = g.op("Relu", g.op("BatchNormalization", h, scale, shift, mean, variance))
    h = g.op("MaxPool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    wide = g.op("Conv", h, g.weight(23, 19, 3, 3), g.weight(23), pads=[1, 1, 1, 1])
    gate = g.op("HardSwish", g.op("Conv", wide, g.weight(23, 1, 3, 3), group=23, pads=[1, 1, 1, 1]))
    far = g.op("Conv", h, g.weight(10, 19, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2])
    both = g.op("Concat", gate, g.op("Sigmoid", far), g.op("Relu", wide), axis=1)
    h = g.op("Conv", both, g.weight(30, 28, 3, 3), g.weight(30), group=2, pads=[1, 1, 1, 1])
    near = g.op("Conv", wide, g.weight(30, 23, 1, 1), g.weight(30))
    short = g.op("Add", g.op("Conv", both, g.weight(30, 56, 1, 1)), near)
    h = g.op("AveragePool", g.op("Add", h, short), kernel_shape=[2, 2], strides=[2, 2])
    h = g.op("Conv", h, g.weight(30, 1, 5, 5), group=30, strides=[2, 2], pads=[2, 2, 2, 2])
    h = g.op("Flatten", g.op("GlobalAveragePool", h))
    return g.finish(g.op("Softmax", g.op("Gemm", h, g.weight(30, 13), g.weight(13)), axis=-1))


def perceptron() -> onnx.ModelProto:
    """Return an MLP with a symbolic batch."""
    g = Sketch(2)
    x = g.given("x", ("n", 29))
    h = g.op("Relu", g.op("Gemm", x, g.weight(29, 67), g.weight(67)))
    h = g.op("Tanh", g.op("MatMul", h, g.weight(67, 31)))
    return g.finish(g.op("Gemm", h, g.weight(31, 3), g.weight(3)))


def transformer() -> onnx.ModelProto:
    """Return two blocks of BERT: embedding, masked attention, layer norms, erf-GELU."""
    g = Sketch(3)
    seq, width, heads = 21, 36, 3
    tokens = g.given("tokens", (2, seq), TensorProto.INT64)
    mask = g.given("mask", (2, seq))
    h = g.op("Add", g.op("Gather", g.weight(50, width, scale=1), tokens), g.weight(seq, width))
    bias = g.op("Sub", g.constant(np.array(1, np.float32)), mask)
    bias = g.op("Mul", g.op("Unsqueeze", bias, g.constant(np.array([1, 2]))),
                g.constant(np.array(-1e4, np.float32)))  # fmt: skip
    for _ in range(2):
        q, k, v = (_heads(g, h, width, heads, seq) for _ in range(3))
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.op("Mul", scores, g.constant(np.array((width // heads) ** -0.5, np.float32)))
        soft = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
        mixed = g.op("Transpose", g.op("MatMul", soft, v), perm=[0, 2, 1, 3])
        flat = g.op("Reshape", mixed, g.constant(np.array([2, seq, width])))
        h = _norm(g, g.op("Add", h, _dense(g, flat, width, width)), width)
        inner = g.op("Gelu", _dense(g, h, width, 83))
        h = _norm(g, g.op("Add", h, _dense(g, inner, 83, width)), width)
    return g.finish(h)


def _dense(g: Sketch, x: str, inner: int, outer: int) -> str:
    return g.op("Add", g.op("MatMul", x, g.weight(inner, outer)), g.weight(outer))


def _heads(g: Sketch, x: str, width: int, heads: int, seq: int) -> str:
    shape = g.constant(np.array([2, seq, heads, width // heads]))
    return g.op("Transpose", g.op("Reshape", _dense(g, x, width, width), shape), perm=[0, 2, 1, 3])


def _norm(g: Sketch, x: str, width: int) -> str:
    scale = g.weight(width, scale=0.1, shift=1)
    return g.op("LayerNormalization", x, scale, g.weight(width), axis=-1)


def rows_and_windows() -> onnx.ModelProto:
    """Return pooling, softmax along each axis, reductions, a resize and a slice."""
    g = Sketch(4)
    x = g.given("x", (1, 11, 17, 15))
    pooled = g.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0])
    mean = g.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    channels = g.op("Softmax", mean, axis=1)
    lines = g.op("Softmax", g.op("Exp", g.op("Neg", x)), axis=3)
    spread = g.op("ReduceMax", x, g.constant(np.array([2])), keepdims=0)
    norm = g.op("ReduceL2", x, g.constant(np.array([1, 3])), keepdims=1)
    large = g.op("Resize", x, "", g.constant(np.array([1, 1, 2, 2], np.float32)),
                 mode="linear", coordinate_transformation_mode="half_pixel")  # fmt: skip
    part = g.op("Slice", large, *(g.constant(np.array([v])) for v in (3, 30, 3, 2)))
    turned = g.op("Transpose", g.op("Cos", part), perm=[0, 3, 1, 2])
    return g.finish(pooled, channels, lines, spread, norm, turned)


def small_types() -> onnx.ModelProto:
    """Return products of 8-bit integers, and casts to small floats and back."""
    g = Sketch(5)
    x = g.given("x", (2, 7, 9, 8))
    scale, zero = g.constant(np.array(0.02, np.float32)), g.constant(np.array(131, np.uint8))
    q = g.op("QuantizeLinear", x, scale, zero)
    signed = g.op("QuantizeLinear", x, scale, g.constant(np.array(-3, np.int8)))
    w = g.constant(np.arange(-105, 105, dtype=np.int8).reshape(5, 7, 3, 2)[:, ::-1].copy())
    first = g.op("ConvInteger", q, w, zero, pads=[1, 1, 1, 0])
    flat = g.op("Reshape", signed, g.constant(np.array([2, 72, 7])))
    dense = g.constant((np.arange(7 * 37, dtype=np.int32) % 251).astype(np.uint8).reshape(7, 37))
    second = g.op("MatMulInteger", flat, dense, "", g.constant(np.array(7, np.uint8)))
    casts = []
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2):
        casts.append(g.op("Cast", g.op("Cast", x, to=kind), to=TensorProto.FLOAT))
    sums = (g.op("Cast", y, to=TensorProto.FLOAT) for y in (first, second))
    return g.finish(*sums, *casts)


def selections() -> onnx.ModelProto:
    """Return running totals, elements put to other places, and the largest of a few and of all."""
    g = Sketch(5)
    x = g.given("x", (3, 7, 203))
    rows = [g.op("CumSum", x, g.constant(np.array(k)), reverse=k % 2) for k in (1, 2)]
    indices = g.constant(np.arange(3 * 5 * 203).reshape(3, 5, 203) * 11 % 13 - 6)
    changed = g.op("ScatterElements", x, indices, g.weight(3, 5, 203), axis=1)
    places = g.constant(np.array([[0, 3], [2, -1], [0, 3]]))
    added = g.op("ScatterND", changed, places, g.weight(3, 203), reduction="add")
    some, every = (
        g.op("TopK", g.op("Neg", x), g.constant(np.array([k])), axis=2, outputs=2) for k in (9, 203)
    )
    return g.finish(*rows, added, some, every)


def _pixels(shape: tuple[int, ...]) -> Callable[[np.random.Generator], dict[str, Array]]:
    return lambda rng: {"x": rng.standard_normal(shape).astype(np.float32)}


def _tokens(rng: np.random.Generator) -> dict[str, Array]:
    mask = np.ones((2, 21), np.float32)
    mask[1, 13:] = 0
    return {"tokens": rng.integers(0, 50, (2, 21)), "mask": mask}


Case = tuple[Callable[[], onnx.ModelProto], Callable[[np.random.Generator], dict[str, Array]]]

CASES: MappingProxyType[str, Case] = MappingProxyType(
    {
        "convolutions": (convolutions, _pixels((1, 3, 37, 33))),
        "perceptron": (perceptron, _pixels((7, 29))),
        "transformer": (transformer, _tokens),
        "small_types": (small_types, _pixels((2, 7, 9, 8))),
        "selections": (selections, _pixels((3, 7, 203))),
        "rows_and_windows": (rows_and_windows, _pixels((1, 11, 17, 15))),
    }
)

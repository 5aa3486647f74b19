"""Single layers as models of one node: the shapes that the time of real models goes to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models.inputs import Array

OPSET = 17
F32_BYTES = 4
TO_LAST = (0, 2, 3, 1)
FROM_LAST = (0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """A square convolution with bias, padded to keep the size, on one image."""

    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is given at run time."""
        return ((1, self.inputs, self.size, self.size),)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the constant operand."""
        return (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        size = -(-self.size // self.stride)
        return (1, self.outputs, size, size)

    @property
    def dense(self) -> bool:
        """Whether every output reads every input channel."""
        return self.groups == 1

    @property
    def flops(self) -> int:
        """Operations; a multiply-add is two."""
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    def node(self) -> onnx.NodeProto:
        """Return the node, reading x0, weight and bias."""
        return helper.make_node(
            "Conv",
            ["x0", "weight", "bias"],
            ["y"],
            strides=[self.stride] * 2,
            pads=[self.kernel // 2] * 4,
            group=self.groups,
        )


@dataclass(frozen=True, slots=True)
class ProductLayer:
    """A matrix product with a constant right side, or of two inputs if ``batch`` is given."""

    rows: int
    depth: int
    columns: int
    batch: int = 0

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is given at run time."""
        if not self.batch:
            return ((self.rows, self.depth),)
        return ((self.batch, self.rows, self.depth), (self.batch, self.depth, self.columns))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the constant operand, empty if there is none."""
        return () if self.batch else (self.depth, self.columns)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        plain = (self.rows, self.columns)
        return (self.batch, *plain) if self.batch else plain

    @property
    def dense(self) -> bool:
        """Whether it is one large product with weights."""
        return not self.batch

    @property
    def flops(self) -> int:
        """Operations; a multiply-add is two."""
        return 2 * math.prod(self.output_shape) * self.depth

    def node(self) -> onnx.NodeProto:
        """Return the node: Gemm with bias, or MatMul of two inputs."""
        if self.batch:
            return helper.make_node("MatMul", ["x0", "x1"], ["y"])
        return helper.make_node("Gemm", ["x0", "weight", "bias"], ["y"])


Layer = ConvLayer | ProductLayer

LAYERS: dict[str, Layer] = {
    "resnet_stem_7x7": ConvLayer(3, 64, 224, 7, stride=2),
    "resnet_56_1x1_64_64": ConvLayer(64, 64, 56, 1),
    "resnet_56_3x3_64_64": ConvLayer(64, 64, 56, 3),
    "resnet_56_1x1_64_256": ConvLayer(64, 256, 56, 1),
    "resnet_56_1x1_256_64": ConvLayer(256, 64, 56, 1),
    "resnet_56_3x3_128_s2": ConvLayer(128, 128, 56, 3, stride=2),
    "resnet_28_3x3_128_128": ConvLayer(128, 128, 28, 3),
    "resnet_28_1x1_128_512": ConvLayer(128, 512, 28, 1),
    "resnet_28_1x1_512_1024_s2": ConvLayer(512, 1024, 28, 1, stride=2),
    "resnet_14_3x3_256_256": ConvLayer(256, 256, 14, 3),
    "resnet_14_1x1_1024_256": ConvLayer(1024, 256, 14, 1),
    "resnet_7_3x3_512_512": ConvLayer(512, 512, 7, 3),
    "resnet_7_1x1_512_2048": ConvLayer(512, 2048, 7, 1),
    "resnet_classifier": ProductLayer(1, 2048, 1000),
    "resnext_56_3x3_128_g32": ConvLayer(128, 128, 56, 3, groups=32),
    "vgg_224_3x3_64_64": ConvLayer(64, 64, 224, 3),
    "vgg_112_3x3_128_128": ConvLayer(128, 128, 112, 3),
    "vgg_56_3x3_256_256": ConvLayer(256, 256, 56, 3),
    "vgg_28_3x3_512_512": ConvLayer(512, 512, 28, 3),
    "vgg_14_3x3_512_512": ConvLayer(512, 512, 14, 3),
    "vgg_classifier": ProductLayer(1, 25088, 4096),
    "mobilenet_112_1x1_16_96": ConvLayer(16, 96, 112, 1),
    "mobilenet_112_depthwise_96_s2": ConvLayer(96, 96, 112, 3, stride=2, groups=96),
    "mobilenet_56_depthwise_144": ConvLayer(144, 144, 56, 3, groups=144),
    "mobilenet_56_1x1_144_24": ConvLayer(144, 24, 56, 1),
    "mobilenet_14_depthwise_384": ConvLayer(384, 384, 14, 3, groups=384),
    "mobilenet_14_1x1_64_384": ConvLayer(64, 384, 14, 1),
    "mobilenet_7_depthwise_960": ConvLayer(960, 960, 7, 3, groups=960),
    "mobilenet_7_1x1_160_960": ConvLayer(160, 960, 7, 1),
    "bert_128_768_768": ProductLayer(128, 768, 768),
    "bert_128_768_3072": ProductLayer(128, 768, 3072),
    "bert_128_3072_768": ProductLayer(128, 3072, 768),
    "bert_384_768_768": ProductLayer(384, 768, 768),
    "bert_384_768_3072": ProductLayer(384, 768, 3072),
    "bert_scores_128": ProductLayer(128, 64, 128, batch=12),
    "bert_context_128": ProductLayer(128, 128, 64, batch=12),
}


def least_bytes(layer: Layer) -> int:
    """Return the bytes that must move at least: every operand and the result once."""
    shapes = (*layer.input_shapes, layer.output_shape, layer.weight_shape or (0,))
    return F32_BYTES * sum(math.prod(shape) for shape in shapes)


def make_layer_inputs(layer: Layer, seed: int) -> dict[str, Array]:
    """Return seeded standard normal inputs."""
    rng = np.random.default_rng(seed)
    return {
        f"x{index}": rng.standard_normal(shape, dtype=np.float32)
        for index, shape in enumerate(layer.input_shapes)
    }


def channels_last(array: Array) -> Array:
    """Return images with their channels last; anything else as it is."""
    return np.ascontiguousarray(array.transpose(TO_LAST)) if array.ndim == len(TO_LAST) else array


def layer_model(layer: Layer, seed: int = 0, *, images_last: bool = False) -> onnx.ModelProto:
    """Return the layer as an ONNX model; weights keep the result's deviation at one.

    Args:
        layer: what it computes.
        seed: of the weights.
        images_last: whether images come and go channels last, as between layers of a network.
    """
    rng = np.random.default_rng(seed)
    constants = []
    if layer.weight_shape:
        depth = layer.flops // 2 // math.prod(layer.output_shape)
        weight = rng.standard_normal(layer.weight_shape) / math.sqrt(depth)
        channels = layer.outputs if isinstance(layer, ConvLayer) else layer.columns
        bias = rng.standard_normal(channels, dtype=np.float32)
        constants = [
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(bias, "bias"),
        ]
    shapes = {f"x{index}": shape for index, shape in enumerate(layer.input_shapes)}
    nodes, (given, result) = [layer.node()], (shapes, layer.output_shape)
    if images_last and isinstance(layer, ConvLayer):
        nodes, given, result = _between_transposes(layer)
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, given[name]) for name in given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _between_transposes(
    layer: ConvLayer,
) -> tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Return nodes, inputs and result of a convolution of images with channels last."""
    node = layer.node()
    node.input[0], node.output[0] = "images", "found"
    nodes = [
        helper.make_node("Transpose", ["x0"], ["images"], perm=FROM_LAST),
        node,
        helper.make_node("Transpose", ["found"], ["y"], perm=TO_LAST),
    ]
    (given,) = layer.input_shapes
    shapes = [tuple(shape[d] for d in TO_LAST) for shape in (given, layer.output_shape)]
    return nodes, {"x0": shapes[0]}, shapes[1]

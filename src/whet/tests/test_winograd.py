"""Winograd convolutions against direct ones in float64: odd images, channels, paddings, panels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.kernel.winograd import FILTERINGS

Array = np.ndarray[Any, np.dtype[Any]]

SHAPES = {
    "odd image": (1, 48, 80, 29, 15),
    "channels that fill no vector": (2, 67, 101, 17, 14),
    "several blocks": (3, 64, 64, 28, 27),
    "weights that no cache holds": (1, 256, 257, 14, 14),
    "wide rows": (1, 33, 65, 7, 61),
}
"""Images, input channels, filters, rows, columns."""
THIN = 8


def convolution(shape: tuple[int, ...], pads: list[int], weights: list[Array]) -> ModelProto:
    """Return a 3x3 convolution, its activation and a sum between two 1x1 convolutions."""
    images, _, _, rows, cols = shape
    out = [images, THIN, rows + pads[0] + pads[2] - 2, cols + pads[1] + pads[3] - 2]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["wide"]),
        helper.make_node("Conv", ["wide", "w1", "bias"], ["c"], pads=pads),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [images, THIN, rows, cols])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
    names = ("w0", "w1", "w2", "bias")
    constants = [numpy_helper.from_array(w, n) for w, n in zip(weights, names, strict=True)]
    graph = helper.make_graph(nodes, "convolution", [given], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_double(model: ModelProto, x: Array) -> Array:
    """Return the model's output computed in float64."""
    wide = ModelProto()
    wide.CopyFrom(model)
    for constant in wide.graph.initializer:
        value = numpy_helper.to_array(constant).astype(np.float64)
        constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    for end in (*wide.graph.input, *wide.graph.output):
        end.type.tensor_type.elem_type = TensorProto.DOUBLE
    outputs = ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})
    assert isinstance(outputs, list)
    return cast("Array", outputs[0])


def scaled(rng: np.random.Generator, *shape: int) -> Array:
    """Return weights that keep the variance of what they multiply."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    weights: Array = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
    return weights


@pytest.mark.parametrize("together", (1, 2, 3, 6))
def test_pixels_are_made_of_what_is_there(together: int) -> None:
    filtering = replace(FILTERINGS[4], together=together)
    done: list[int] = []
    for first in range(0, filtering.span, together):
        lines = range(first, first + together)
        for i in filtering.complete(lines):
            needed = {k for k, factor in enumerate(filtering.outputs[i]) if factor}
            assert needed <= {*lines, *filtering.kept}, "else a line is lost"
            done.append(i)
    assert done == list(range(filtering.size))
    assert len(filtering.kept) == {1: 5, 2: 4, 3: 3, 6: 0}[together]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel cache that the tests share."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("pads", ([1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]), ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_agrees_with_the_direct_sum(shape: tuple[int, ...], pads: list[int], cache: Path) -> None:
    rng = np.random.default_rng([*shape, *pads])
    images, depth, filters, rows, cols = shape
    weights = [
        scaled(rng, depth, THIN, 1, 1),
        scaled(rng, filters, depth, 3, 3),
        scaled(rng, THIN, filters, 1, 1),
        scaled(rng, filters),
    ]
    model = convolution(shape, pads, weights)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    kernels = [group.kernel for group in compiled.stats.groups]
    assert any(name.startswith("winograd") for name in kernels), kernels
    x = rng.standard_normal((images, THIN, rows, cols)).astype(np.float32)
    # Transforms of F(4, 3) add numbers up to 100 times the result: about two digits are lost.
    np.testing.assert_allclose(compiled({"x": x})["y"], in_double(model, x), rtol=1e-4, atol=1e-4)

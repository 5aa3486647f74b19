"""Attributes and constants that make no sense: each is refused with a reason, quickly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.tests.hostile_models import I64, INT64, compile_model, f32, folded, single

ONE = np.float32(1)
IMAGE = (1, 1, 4, 4)
WINDOW = np.ones((1, 1, 2, 2), np.float32)


def _sizes_from_data(count: int) -> onnx.ModelProto:
    """Return a slice along as many axes, with steps that a run gives."""
    model = single("Slice", [4], {}, *map(np.array, ([0], [4], [0])))
    model.graph.node[0].input.append("n")
    model.graph.input.append(helper.make_tensor_value_info("n", INT64, [count]))
    return model


E120 = whet.ShapeError
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], type[whet.WhetError], str]] = {
    "range without end": (
        lambda: folded("Range", np.float32(0), np.float32(1), np.float32(1e-30)),
        whet.ShapeError, "no end",
    ),
    "range of nothing": (
        lambda: folded("Range", np.float32(0), np.float32(np.nan), ONE), whet.ShapeError, "no end",
    ),
    "range of steps of zero": (
        lambda: folded("Range", np.float32(0), ONE, np.float32(0)), whet.ShapeError, "no end",
    ),
    "one-hot of 2^40": (
        lambda: folded("OneHot", np.array([1]), np.array(2**40), f32(0, 1)),
        whet.ResourceError, "tensor_bytes",
    ),
    "padding of 2^40": (
        lambda: folded("Pad", f32(1, 1), np.array([2**40, 0])), whet.ResourceError, "tensor",
    ),
    "scales not a number": (
        lambda: single("Resize", IMAGE, {}, None, f32(1, 1, np.nan, np.inf)),
        whet.ResourceError, "tensor_bytes",
    ),
    "negative scales": (
        lambda: single("Resize", IMAGE, {}, None, f32(1, 1, -2, 0)), whet.ShapeError, "shape",
    ),
    "negative split": (
        lambda: single("Split", [4], {}, np.array([-1, 5])), whet.WhetError, "E1",
    ),
    "parts for other outputs": (
        lambda: single("Split", [4], {"num_outputs": 3}), whet.ShapeError, "3 parts for 1",
    ),
    "very many sizes": (lambda: _sizes_from_data(1 << 15), whet.ShapeError, "any rank"),
    "negative expand": (
        lambda: single("Expand", [1], {}, np.array([-3])), whet.ShapeError, "-3",
    ),
    "negative repeats": (lambda: single("Tile", [1], {}, np.array([-3])), whet.ShapeError, "neg"),
    "rank of 500": (
        lambda: single("Reshape", [1], {}, np.ones(500, np.int64)), whet.ResourceError, "rank 500",
    ),
    "product beyond 64 bits": (
        lambda: single("Reshape", [4], {}, np.array([2**62, 2**62, 4])),
        whet.ShapeError, "overflow",
    ),
    "step of 2^63": (
        lambda: single("Slice", [4], {}, *map(np.array, ([0], [4], [0], [I64 - 1]))),
        whet.ShapeError, "steps",
    ),
    "step of -2^63": (
        lambda: single("Slice", [4], {}, *map(np.array, ([3], [-9], [0], [-I64]))),
        whet.ShapeError, "steps",
    ),
    "step of 0": (
        lambda: single("Slice", [4], {}, *map(np.array, ([0], [4], [0], [0]))),
        whet.ShapeError, "step",
    ),
    "stride of 0": (
        lambda: single("Conv", IMAGE, {"strides": [0, 0]}, WINDOW), whet.ShapeError, "strides",
    ),
    "padding of a convolution": (
        lambda: single("Conv", IMAGE, {"pads": [2**40] * 4}, WINDOW), whet.ResourceError, "tensor",
    ),
    "no groups": (lambda: single("Conv", IMAGE, {"group": 0}, WINDOW), whet.ShapeError, "group 0"),
    "no groups of channels": (
        lambda: single("GroupNormalization", IMAGE, {"num_groups": 0}, f32(1), f32(1)),
        whet.ShapeError, "0 groups",
    ),
    "window of 0": (
        lambda: single("MaxPool", IMAGE, {"kernel_shape": [0, 0]}), whet.ShapeError, "positive",
    ),
    "negative neighbourhood": (lambda: single("LRN", IMAGE, {"size": -3}), whet.ShapeError, "size"),
    "axis far away": (lambda: single("Softmax", [4], {"axis": -(2**62)}), whet.ShapeError, "axis"),
    "block of 0": (
        lambda: single("DepthToSpace", IMAGE, {"blocksize": 0}), whet.ShapeError, "positive",
    ),
    "another number of channels": (
        lambda: single("ConvTranspose", (1, 999, 4, 4), {}, np.ones((2, 1, 3, 3), np.float32)),
        whet.ShapeError, "999",
    ),
    "other channels": (
        lambda: single("InstanceNormalization", IMAGE, {}, f32(1, 1), f32(1, 1)), E120, "channel",
    ),
    "an input left out": (lambda: single("Add", [1], {}, None), whet.ModelError, "leaves out"),
    "an equation of other characters": (
        lambda: single("Einsum", [2], {"equation": "%>"}), whet.ShapeError, "equation",
    ),
    "an attribute that is no text": (
        lambda: single("Einsum", [2], {"equation": b"\xff"}), whet.ModelError, "UTF-8",
    ),
    "two types": (lambda: single("Add", [1], {}, np.array([1])), whet.ModelError, "equal types"),
    "a type that is not taken": (
        lambda: single("Where", [1], {}, ONE, ONE), whet.WhetError, "E1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_that_make_no_sense(name: str) -> None:
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        compile_model(make())

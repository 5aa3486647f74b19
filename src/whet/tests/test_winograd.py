"""Winograd convolutions against direct ones in float64: odd images, channels, paddings, panels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from msgspec import structs
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.driver import plan
from whet.kernel.spec import Winograd
from whet.kernel.winograd import FILTERINGS
from whet.kernel.winograd_filtering import Filtering
from whet.tests.kernel_runner import execute, kernels_of, trial_of

Array = np.ndarray[Any, np.dtype[Any]]

SHAPES = {
    "odd image": (1, 48, 80, 29, 15),
    "channels that fill no vector": (2, 67, 101, 17, 14),
    "several blocks": (3, 64, 64, 28, 27),
    "weights that no cache holds": (1, 256, 257, 14, 14),
    "wide rows": (1, 33, 65, 7, 61),
}
"""Images, input channels, filters, rows, columns."""
APART = {
    "even image": ((1, 96, 112, 40, 42), [1, 1, 1, 1]),
    "even image without padding": ((1, 96, 112, 42, 44), [0, 0, 0, 0]),
    "odd image": ((1, 97, 130, 53, 39), [1, 1, 1, 1]),
    "padding on two sides": ((1, 97, 130, 53, 40), [0, 0, 1, 1]),
    "channels that fill no vector": ((2, 101, 125, 44, 48), [1, 0, 0, 1]),
    "weights that no cache holds": ((1, 256, 257, 28, 28), [1, 1, 1, 1]),
    "wide rows": ((1, 96, 95, 8, 181), [1, 1, 1, 1]),
}
"""The same and paddings, of which every other pixel is computed."""
WHOLE = {
    "7 pixels": ((1, 96, 112, 7, 7), [1, 1, 1, 1]),
    "7 pixels, filters that fill no vector": ((3, 64, 101, 7, 7), [1, 1, 1, 1]),
    "7 pixels, less than a vector of filters": ((1, 64, 17, 7, 7), [1, 1, 1, 1]),
    "7 pixels without padding": ((2, 64, 48, 9, 9), [0, 0, 0, 0]),
    "8 pixels, padding on two sides": ((1, 80, 64, 8, 8), [1, 0, 1, 2]),
    "6 pixels, zeros alone on one side": ((1, 80, 64, 5, 6), [0, 1, 3, 1]),
    "5 pixels": ((4, 64, 80, 5, 5), [1, 1, 1, 1]),
    "weights that no cache holds": ((1, 256, 257, 7, 7), [1, 1, 1, 1]),
}
"""The same, of which a tile is an image."""
WIDE = {
    "14 pixels": ((1, 96, 112, 14, 14), [1, 1, 1, 1]),
    "14 pixels, filters that fill no vector": ((3, 48, 101, 14, 14), [1, 1, 1, 1]),
    "14 pixels, less than a vector of filters": ((2, 64, 19, 14, 14), [1, 1, 1, 1]),
    "14 pixels without padding": ((1, 64, 48, 16, 16), [0, 0, 0, 0]),
    "14 pixels, weights that no cache holds": ((1, 256, 257, 14, 14), [1, 1, 1, 1]),
    "9 pixels": ((1, 64, 80, 9, 9), [1, 1, 1, 1]),
    "10 pixels, padding on two sides": ((1, 80, 64, 10, 10), [1, 0, 1, 2]),
    "11 pixels, zeros alone on one side": ((1, 80, 64, 10, 11), [0, 1, 3, 1]),
    "13 pixels": ((1, 64, 64, 13, 13), [1, 1, 1, 1]),
    "16 pixels": ((1, 112, 128, 16, 16), [1, 1, 1, 1]),
    "17 pixels": ((1, 192, 192, 17, 17), [1, 1, 1, 1]),
    "20 pixels": ((1, 256, 200, 20, 20), [1, 1, 1, 1]),
}
"""The same of images several tiles wide."""
THIN = 8
AVX512 = "x86_64-linux-gnu:cascadelake"
HASWELL = "x86_64-linux-gnu:haswell"


def convolution(
    shape: tuple[int, ...], pads: list[int], weights: list[Array], stride: int = 1
) -> ModelProto:
    """Return a 3x3 convolution, its activation and a sum between two 1x1 convolutions."""
    images, _, _, rows, cols = shape
    lines = (rows + pads[0] + pads[2] - 3, cols + pads[1] + pads[3] - 3)
    out = [images, THIN, *(line // stride + 1 for line in lines)]
    strides = [stride, stride]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["wide"]),
        helper.make_node("Conv", ["wide", "w1", "bias"], ["c"], pads=pads, strides=strides),
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
    filtering = replace(FILTERINGS[4, 1], together=together)
    done: list[int] = []
    for lines in filtering.groups:
        for i in filtering.complete(lines):
            needed = {k for k, factor in enumerate(filtering.outputs[i]) if factor}
            assert needed <= {*lines, *filtering.kept}, "else a line is lost"
            done.append(i)
    assert done == list(range(filtering.size))
    assert len(filtering.kept) == {1: 5, 2: 4, 3: 3, 6: 0}[together]


@pytest.mark.parametrize("pads", ([1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]), ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_agrees_with_the_direct_sum(shape: tuple[int, ...], pads: list[int], cache: Path) -> None:
    check_convolution(shape, pads, 1, cache)


@pytest.mark.parametrize(("shape", "pads"), APART.values(), ids=APART.keys())
def test_every_other_pixel(shape: tuple[int, ...], pads: list[int], cache: Path) -> None:
    check_convolution(shape, pads, 2, cache)


@pytest.mark.parametrize(("shape", "pads"), [*WHOLE.values(), *WIDE.values()], ids=[*WHOLE, *WIDE])
def test_whole_images(shape: tuple[int, ...], pads: list[int], cache: Path) -> None:
    check_convolution(shape, pads, 1, cache)


def sizes_of_tiles(shape: tuple[int, ...], target: str) -> list[int]:
    """Return the sizes of Winograd tiles that a padded convolution is done in on a processor."""
    rng = np.random.default_rng(0)
    images, depth, filters, rows, cols = shape
    weights = [
        scaled(rng, depth, THIN, 1, 1),
        scaled(rng, filters, depth, 3, 3),
        scaled(rng, THIN, filters, 1, 1),
        scaled(rng, filters),
    ]
    model = convolution((images, depth, filters, rows, cols), [1, 1, 1, 1], weights)
    kernels = plan(model, options=whet.Options(threads=2, target=target)).kernels.values()
    return [kernel.size for kernel in kernels if isinstance(kernel, Winograd)]


@pytest.mark.parametrize(
    ("size", "channels"),
    [*((size, 96) for size in (5, 6, 7, 8)), *((size, 128) for size in (9, 10, 12, 13, 14, 16))],
)
def test_small_images_are_one_tile(size: int, channels: int) -> None:
    assert sizes_of_tiles((1, channels, channels, size, size), AVX512) == [size]


@pytest.mark.parametrize(
    ("shape", "target"),
    (
        ((1, 96, 96, 7, 8), AVX512),
        ((1, 100, 96, 7, 7), AVX512),
        ((1, 96, 96, 21, 21), AVX512),
        ((8, 96, 96, 7, 7), AVX512),
        ((8, 96, 96, 14, 14), AVX512),
        ((1, 64, 64, 20, 20), AVX512),
        ((1, 96, 96, 7, 7), HASWELL),
        ((1, 256, 256, 9, 9), HASWELL),
        ((1, 256, 256, 14, 14), "aarch64-linux-gnu:neoverse-n1"),
    ),
    ids=(
        "not square",
        "channels that fill no vector",
        "large",
        "many images",
        "many wide images",
        "near weights",
        "too few registers",
        "short vectors",
        "lanes of a register",
    ),
)
def test_others_are_not(shape: tuple[int, ...], target: str) -> None:
    assert not set(sizes_of_tiles(shape, target)) & {*range(5, 21)}


@pytest.mark.parametrize("shape", ((2, 64, 80, 7, 7), (1, 256, 272, 14, 14)), ids=str)
def test_whole_images_do_not_depend_on_threads(shape: tuple[int, ...], cache: Path) -> None:
    rng = np.random.default_rng()
    images, depth, filters, rows, cols = shape
    weights = [
        scaled(rng, depth, THIN, 1, 1),
        scaled(rng, filters, depth, 3, 3),
        scaled(rng, THIN, filters, 1, 1),
        scaled(rng, filters),
    ]
    model = convolution(shape, [1, 1, 1, 1], weights)
    x = rng.standard_normal((images, THIN, rows, cols)).astype(np.float32)
    one, three = (
        whet.compile(model, options=whet.Options(threads=n, cache_dir=cache))({"x": x})["y"]
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("shape", ((1, 64, 80, 7, 7), (1, 96, 112, 14, 14)), ids=str)
def test_weights_made_by_additions_are_the_same(shape: tuple[int, ...], cache: Path) -> None:
    """They are for processors that start a product a cycle; both kinds run anywhere."""
    rng = np.random.default_rng()
    _, depth, filters, _, _ = shape
    sides = [(depth, THIN, 1, 1), (filters, depth, 3, 3), (THIN, filters, 1, 1), (filters,)]
    model = convolution(shape, [1, 1, 1, 1], [scaled(rng, *side) for side in sides])
    calls, host = kernels_of(model, every=True)
    found = [c for c in calls if isinstance(c.kernel, Winograd)]
    if not found:
        pytest.skip("this processor does such convolutions directly")
    trial = trial_of(found[0], host, {}, rng, odd=False)
    one, two = (
        execute(replace(trial, target=structs.replace(host, products_per_cycle=n)), cache)
        for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def check_convolution(shape: tuple[int, ...], pads: list[int], stride: int, cache: Path) -> None:
    """Compare a compiled Winograd convolution with direct sums in double precision."""
    rng = np.random.default_rng([*shape, *pads, stride])
    images, depth, filters, rows, cols = shape
    weights = [
        scaled(rng, depth, THIN, 1, 1),
        scaled(rng, filters, depth, 3, 3),
        scaled(rng, THIN, filters, 1, 1),
        scaled(rng, filters),
    ]
    model = convolution(shape, pads, weights, stride)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    if shape not in [small for small, _ in (*WHOLE.values(), *WIDE.values())]:
        kernels = [group.kernel for group in compiled.stats.groups]
        assert any(name.startswith("winograd") for name in kernels), kernels
    x = rng.standard_normal((images, THIN, rows, cols)).astype(np.float32)
    # Transforms of F(4, 3) add numbers up to 100 times the result: about two digits are lost.
    np.testing.assert_allclose(compiled({"x": x})["y"], in_double(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("filtering", FILTERINGS.values(), ids=str)
def test_the_matrices_filter(filtering: Filtering) -> None:
    rng = np.random.default_rng()
    x, taps = rng.standard_normal(len(filtering.inputs[0])), rng.standard_normal(3)
    windows = np.lib.stride_tricks.sliding_window_view(x, 3)[:: filtering.stride]
    inputs, filters, outputs = (
        np.array(m) for m in (filtering.inputs, filtering.filters, filtering.outputs)
    )
    weights = (filters @ taps)[list(filtering.weight_of)]
    found = outputs @ ((inputs @ x) * weights)
    assert len(windows) == filtering.size
    np.testing.assert_allclose(found, windows @ taps, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strides", [[1, 2], [2, 1], [3, 3]])
def test_other_strides_are_direct_sums(strides: list[int]) -> None:
    rng = np.random.default_rng(0)
    model = convolution(
        (1, 64, 64, 29, 29),
        [1, 1, 1, 1],
        [scaled(rng, 64, THIN, 1, 1), scaled(rng, 64, 64, 3, 3), scaled(rng, THIN, 64, 1, 1),
         scaled(rng, 64)],
    )  # fmt: skip
    (attribute,) = [a for a in model.graph.node[1].attribute if a.name == "strides"]
    attribute.ints[:] = strides
    for dim, step in zip(
        model.graph.output[0].type.tensor_type.shape.dim[2:], strides, strict=True
    ):
        dim.dim_value = 28 // step + 1
    names = plan(model, options=whet.Options(threads=2)).kernels
    assert not any(name.startswith("winograd") for name in names), names


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2])
def test_part_of_an_image_has_edges_of_its_own(pad: int, stride: int, cache: Path) -> None:
    """Behind the edge of a part that is read in place are zeros, not what lies beside it."""
    rng = np.random.default_rng(pad)
    weights = {"w0": scaled(rng, 64, 64, 1, 1), "w1": scaled(rng, 64, 64, 3, 3)}
    places = {"starts": [1, 2], "ends": [55, 57], "axes": [2, 3]}
    constants = {**weights, **{k: np.array(v) for k, v in places.items()}}
    pads, strides = [pad] * 4, [stride, stride]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["wide"]),
        helper.make_node("Slice", ["wide", "starts", "ends", "axes"], ["part"]),
        helper.make_node("Conv", ["part", "w1"], ["y"], pads=pads, strides=strides),
    ]
    x = rng.standard_normal((1, 64, 58, 58)).astype(np.float32)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "wide")]
    graph = helper.make_graph(
        nodes,
        "part",
        [given],
        outputs,
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    result = compiled({"x": x})
    wide = np.einsum("nchw,mc->nmhw", x.astype(np.float64), weights["w0"][..., 0, 0])
    expected = in_double(lone_convolution(weights["w1"], pads, strides), wide[:, :, 1:55, 2:57])
    np.testing.assert_allclose(result["wide"], wide, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(result["y"], expected, atol=1e-4, rtol=1e-5)


def lone_convolution(weights: Array, pads: list[int], strides: list[int]) -> ModelProto:
    """Return a convolution and nothing else."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=strides)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
    constants = [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph([node], "lone", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

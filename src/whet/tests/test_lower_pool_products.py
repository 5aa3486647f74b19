"""Products and the windows over them as one kernel: same bits as apart, and what stays apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.objects.targets import resolve_target
from whet.driver import plan
from whet.kernel.pooled import Bands, Lines, Pooled
from whet.kernel.pooled_schedule import Image, choose_bands
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of
from whet.tests.tolerance import assert_close

AVX2 = "x86_64-unknown-linux-gnu:haswell"
Array = np.ndarray[Any, np.dtype[Any]]
Pool = tuple[str, dict[str, Any]]

CEILING: Pool = ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})
PLAIN: Pool = ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})
TALL: Pool = ("AveragePool", {"kernel_shape": [5, 2], "strides": [3, 1], "pads": [2, 0, 1, 1]})
SPREAD: Pool = ("MaxPool", {"kernel_shape": [3, 3], "strides": [3, 2], "dilations": [2, 2]})


def network(
    rng: np.random.Generator, pool: Pool, batch: int | str, sizes: tuple[int, int, int]
) -> onnx.ModelProto:
    """Return a convolution of three channels with a stride, a Relu, and windows over it."""
    filters, height, width = sizes
    weights = rng.standard_normal((filters, 3, 5, 3)).astype(np.float32) / 6
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 1], pads=[2, 1, 2, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node(pool[0], ["r"], ["y"], **pool[1]),
    ]
    held: dict[str, Array] = {"w": weights, "b": rng.standard_normal(filters).astype(np.float32)}
    return model_of(nodes, held, (batch, 3, height, width))


def model_of(
    nodes: Sequence[onnx.NodeProto],
    held: dict[str, Array],
    shape: Sequence[int | str],
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    constants = [numpy_helper.from_array(w, n) for n, w in held.items()]
    graph = helper.make_graph(list(nodes), "pooled", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def pooled_of(model: onnx.ModelProto, threads: int = 2, **passes: bool | int) -> list[Pooled]:
    assembled = plan(model, options=whet.Options(threads=threads, passes=passes))
    return [k for k in assembled.kernels.values() if isinstance(k, Pooled)]


def same_bits(model: onnx.ModelProto, x: Array, cache: Path) -> None:
    """Compare the results of both kernels with those of one, on several numbers of threads."""
    results = []
    for threads, pooled in ((2, False), (1, True), (2, True), (3, True)):
        passes: dict[str, bool | int] = {"pool_products": pooled}
        options = whet.Options(threads=threads, passes=passes, cache_dir=cache)
        results.append(whet.compile(model, options=options)({"x": x})["y"])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize(
    ("pool", "batch", "sizes"),
    [
        (CEILING, 1, (64, 190, 61)),
        (PLAIN, 3, (21, 241, 67)),
        (TALL, 1, (32, 400, 43)),
        (SPREAD, 1, (40, 800, 43)),
        (CEILING, "n", (24, 203, 150)),
    ],
)
def test_same_bits_as_apart_on_any_threads(
    pool: Pool, batch: int | str, sizes: tuple[int, int, int], cache: Path
) -> None:
    rng = np.random.default_rng()
    model = network(rng, pool, batch, sizes)
    (kernel,) = pooled_of(model)
    assert kernel.bands.rows > kernel.bands.height, "several bands in a chunk"
    count = batch if isinstance(batch, int) else 2
    x = rng.standard_normal((count, 3, *sizes[1:])).astype(np.float32)
    same_bits(model, x, cache)


@pytest.mark.parametrize("target", [AVX2, "host"])
def test_agrees_with_the_interpreter(target: str, cache: Path) -> None:
    rng = np.random.default_rng()
    small = replace(resolve_target(target), l2_bytes=64 << 10)
    model = network(rng, CEILING, 1, (19, 190, 63))
    calls, chosen = kernels_of(model, target=small, rewrites={"pool_products": None})
    (call,) = [c for c in calls if isinstance(c.kernel, Pooled)]
    trial = trial_of(call, chosen, {}, rng, odd=False)
    (found,) = execute(trial, cache, threads=2)
    (expected,) = interpret(trial, precise=True)
    assert_close(found, expected, "product", length=trial.length)


def test_the_image_between_takes_no_memory(cache: Path) -> None:
    model = network(np.random.default_rng(), CEILING, 1, (64, 190, 61))
    stats = [
        whet.compile(
            model, options=whet.Options(threads=2, passes={"pool_products": k}, cache_dir=cache)
        ).stats
        for k in (0, 1)
    ]
    assert stats[0].launches == stats[1].launches + 1
    image = 95 * 61 * 64 * 4
    assert stats[1].arena_bytes < image <= stats[0].arena_bytes


def others() -> dict[str, onnx.ModelProto]:
    """Return networks whose windows are better, or only possible, apart."""
    rng = np.random.default_rng(0)
    conv = helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 1], pads=[2, 1, 2, 1])
    pool = helper.make_node(CEILING[0], ["c"], ["y"], **CEILING[1])
    more = helper.make_node("Relu", ["c"], ["z"])
    sparse = helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[3, 2])
    whole = helper.make_node("GlobalAveragePool", ["c"], ["y"])
    held = {"w": rng.standard_normal((64, 3, 5, 3)).astype(np.float32)}
    shape = (1, 3, 190, 61)
    return {
        "a small image": network(rng, CEILING, 1, (16, 64, 61)),
        "another reader": model_of([conv, pool, more], held, shape, ("y", "z")),
        "an output": model_of([conv, pool], held, shape, ("y", "c")),
        "rows that no window reads": model_of([conv, sparse], held, shape),
        "a mean of all": model_of([conv, whole], held, shape),
    }


@pytest.mark.parametrize("name", list(others()))
def test_others_stay_apart(name: str) -> None:
    assert not pooled_of(others()[name])


def test_bands_stay_in_the_cache_and_repeat_little() -> None:
    target = replace(resolve_target(AVX2), l2_bytes=1 << 20)
    lines = Lines(2, 1, 3)
    image = Image(1, 112, 112, 56, channels=64, panel=16, depth=147, element=4)
    several, long = replace(image, count=4), replace(image, rows=96, columns=6000)
    alone = replace(image, panel=64)
    assert choose_bands(alone, lines, target, 2) == Bands(4, 14, 64)
    assert choose_bands(image, lines, target, 1) == Bands(4, 56, 64)
    assert choose_bands(several, lines, target, 2) == Bands(4, 56, 64)
    assert choose_bands(image, lines, target, 2) == Bands(8, 28, 32), "fewer rows are done twice"
    assert choose_bands(alone, lines, target, 16) is None, "too much is repeated"
    assert choose_bands(long, lines, target, 2) is None, "lines are too long"
    assert choose_bands(replace(image, rows=32, windows=16), lines, target, 2) is None, "it is near"


def test_bands_of_bytes_save_memory_where_that_takes_no_time() -> None:
    target = replace(resolve_target(AVX2), l2_bytes=1 << 20)
    image = Image(1, 56, 56, 56, channels=144, panel=16, depth=24, element=1)
    lines = Lines(1, 1, 3)
    bands = choose_bands(image, lines, target, 2)
    assert bands is not None
    assert (bands.height + lines.shared) * image.columns * bands.channels <= image.bytes // 8
    for other in (replace(image, depth=33), replace(image, element=2), replace(image, rows=28)):
        assert choose_bands(other, lines, target, 2) is None


# -- depthwise convolutions behind 1x1 ones --------------------------------------------------------

Shape = tuple[int, int, int, int]


def widening(
    rng: np.random.Generator, batch: int | str, shape: Shape, step: int
) -> onnx.ModelProto:
    """Return a 1x1 convolution of 5 channels to many, and a depthwise one of them.

    Args:
        rng: numbers.
        batch: images.
        shape: channels between, height, width and side of the windows.
        step: pixels from one window to the next.
    """
    channels, height, width, side = shape
    held: dict[str, Array] = {
        "w": rng.standard_normal((channels, 5, 1, 1)).astype(np.float32),
        "b": rng.standard_normal(channels).astype(np.float32),
        "v": rng.standard_normal((channels, 1, side, side)).astype(np.float32) / side,
        "u": rng.standard_normal(channels).astype(np.float32),
        "least": np.zeros((), np.float32),
        "most": np.full((), 6, np.float32),
    }
    apart: dict[str, Any] = {"group": channels, "strides": [step, step], "pads": [side // 2] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Clip", ["c", "least", "most"], ["r"]),
        helper.make_node("Conv", ["r", "v", "u"], ["d"], **apart),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    return model_of(nodes, held, (batch, 5, height, width))


@pytest.mark.parametrize(
    ("batch", "shape", "step"),
    [
        (1, (96, 112, 61, 3), 2),
        (1, (136, 119, 43, 3), 1),
        (2, (72, 101, 50, 5), 2),
        (3, (50, 97, 67, 3), 1),
        ("n", (200, 90, 33, 5), 1),
    ],
)
def test_widened_images_are_windowed_to_the_same_bits(
    batch: int | str, shape: Shape, step: int, cache: Path
) -> None:
    rng = np.random.default_rng()
    model = widening(rng, batch, shape, step)
    (kernel,) = pooled_of(model)
    assert kernel.bands.channels % 16 == 0 or kernel.bands.channels == shape[0]
    count = batch if isinstance(batch, int) else 3
    x = rng.standard_normal((count, 5, *shape[1:3])).astype(np.float32)
    same_bits(model, x, cache)


def test_images_of_eight_bits_are_windowed_to_the_same_bits(cache: Path) -> None:
    rng = np.random.default_rng()
    model = widening(rng, 1, (96, 112, 112, 3), 2)
    x = rng.standard_normal((1, 5, 112, 112)).astype(np.float32)
    quantized = whet.quantize(model, [{"x": x}]).model
    (kernel,) = pooled_of(quantized)
    assert kernel.product.sums_integers
    same_bits(quantized, x, cache)


@pytest.mark.parametrize("target", [AVX2, "host"])
@pytest.mark.parametrize(("shape", "step"), [((75, 91, 19, 3), 1), ((140, 88, 14, 5), 2)])
def test_channels_in_blocks_agree_with_the_interpreter(
    target: str, shape: Shape, step: int, cache: Path
) -> None:
    rng = np.random.default_rng()
    small = replace(resolve_target(target), l2_bytes=96 << 10)
    model = widening(rng, 2, shape, step)
    calls, chosen = kernels_of(model, target=small, rewrites={"pool_products": None})
    (call,) = [c for c in calls if isinstance(c.kernel, Pooled)]
    assert isinstance(call.kernel, Pooled)
    assert call.kernel.bands.channels < shape[0], "the last block is not whole"
    trial = trial_of(call, chosen, {}, rng, odd=False)
    (found,) = execute(trial, cache, threads=2)
    (expected,) = interpret(trial, precise=True)
    assert_close(found, expected, "product", length=trial.length)

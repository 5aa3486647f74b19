"""Winograd convolutions of bytes against direct sums in 64-bit integers: every sum is the same."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.kinds.integer_winograd_parts import TOGETHER, parts_of
from whet.codegen.kinds.integer_winograd_scratch import STORED, scratch_of
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import named_target
from whet.driver import ask_schedules
from whet.errors import OptionError
from whet.frontend.load import load_model
from whet.kernel.integer_filtering import (
    BITS,
    DIVISOR,
    INVERSE,
    LARGE,
    SIDES,
    SMALL,
    TAPS,
    is_exact,
    tiling_of,
)
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.integer_winograd_schedule import (
    IntegerConvolution,
    Plan,
    choose_integer_winograd,
    integer_plans,
)
from whet.kernel.schedules import Answer, Question, Schedules, answer_of
from whet.kernel.tuning import Entry, Tuning
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.passes.pipeline import run_passes
from whet.runtime.model import CompiledModel
from whet.target import Target
from whet.tests.test_targets_assembly import SPILL, inner_loops
from whet.tune.candidates import candidates

Array = np.ndarray[Any, np.dtype[Any]]

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
SHAPES = {
    "two large tiles": ((1, 32, 48, 8, 8), (1, 1, 1, 1), "uint8", 3),
    "tiles of two sizes": ((1, 64, 32, 14, 14), (1, 1, 1, 1), "int8", -7),
    "one size down, two across": ((2, 32, 17, 12, 15), (1, 1, 1, 1), "uint8", 128),
    "small tiles alone": ((1, 40, 24, 6, 9), (1, 1, 1, 1), "int8", 127),
    "channels that fill no vector": ((1, 33, 19, 20, 27), (2, 2, 2, 2), "int8", -128),
    "few channels": ((3, 3, 5, 13, 9), (1, 0, 2, 1), "uint8", 255),
    "without padding": ((1, 40, 20, 31, 23), (0, 0, 0, 0), "uint8", 0),
    "padding on two sides": ((1, 16, 70, 9, 10), (0, 0, 1, 1), "uint8", 9),
    "a window outside the image": ((1, 16, 16, 3, 3), (4, 3, 3, 4), "uint8", 77),
    "several blocks of channels": ((1, 256, 16, 7, 7), (1, 1, 1, 1), "uint8", 1),
    "an odd number of blocks": ((1, 192, 40, 7, 7), (1, 1, 1, 1), "uint8", 200),
    "a pixel high": ((1, 16, 16, 1, 4), (2, 1, 2, 1), "uint8", 1),
}
"""Images, channels, filters, rows and columns; padding; type and zero point."""
ZEN = "x86_64-linux-gnu:znver4"
CASCADELAKE = "x86_64-linux-gnu:cascadelake"
HASWELL = "x86_64-linux-gnu:haswell"
TARGETS = ("host", HASWELL, "x86_64-linux-gnu:skylake-avx512")
X86 = platform.machine() == "x86_64"

pytestmark = pytest.mark.skipif(not X86, reason="Arm multiplies bytes four at a time, shorts two")


def convolution(
    shape: tuple[int, ...], pads: tuple[int, ...], dtype: str, zero: int, weights: Array
) -> onnx.ModelProto:
    """Return a convolution of bytes, of an image with channels last, whose sums are the output."""
    images, depth, filters, rows, cols = shape
    nodes = [
        helper.make_node("Transpose", ["x"], ["image"], perm=[0, 3, 1, 2]),
        helper.make_node("ConvInteger", ["image", "w", "zero"], ["y"], name="conv", pads=pads),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    out = [images, filters, rows + pads[0] + pads[2] - 2, cols + pads[1] + pads[3] - 2]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", kind, [images, rows, cols, depth])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, out)],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array(zero, dtype), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def direct(x: Array, pads: tuple[int, ...], zero: int, weights: Array) -> Array:
    """Return the sums of windows of an image [images, rows, columns, channels]."""
    wide = x.astype(np.int64) - zero
    wide = np.pad(wide, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
    windows = sliding_window_view(wide, (3, 3), (1, 2))
    sums: Array = np.einsum("nyxcij,mcij->nmyx", windows, weights.astype(np.int64))
    return sums


def bytes_of(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    low, high = LIMITS[dtype]
    return rng.integers(low, high + 1, shape).astype(dtype)


def questions(model: onnx.ModelProto, options: whet.Options) -> list[Question]:
    """Return what is asked about convolutions of bytes."""
    asked = ask_schedules(model, options=options).asked
    found = [q for group in asked.values() for q in group]
    return [q for q in found if isinstance(q.work, IntegerConvolution)]


def tuned(path: Path, options: whet.Options, answers: dict[Question, Answer]) -> whet.Options:
    """Return options with which these schedules are chosen."""
    entries = {question.key: Entry(answer=answer) for question, answer in answers.items()}
    path.write_text(Tuning(entries=entries).text())
    return dataclasses.replace(options, tuning=path)


def plans_of(question: Question) -> list[Plan]:
    """Return the best schedule of each kind: of one or two vectors, in one or several blocks."""
    assert isinstance(question.work, IntegerConvolution)
    kinds: dict[tuple[int, bool, bool, bool], Plan] = {}
    for plan in integer_plans(question.work, question.target, question.threads):
        whole = plan.tile.block >= question.work.depth
        several = plan.tile.panels > 1
        kinds.setdefault((plan.tile.vectors, plan.in_registers, whole, several), plan)
    return list(kinds.values())


def launches(model: CompiledModel) -> int:
    return sum("integerwinograd" in launch.kernel for launch in model.program.launches)


@pytest.mark.parametrize("size", SIDES)
def test_filtering_is_a_convolution(size: int) -> None:
    """The transforms of a tile give its sums times what is divided by, whatever the bytes are."""
    side, rng = SIDES[size], np.random.default_rng(size)
    taps = np.array(TAPS)[: side.span]
    inputs, outputs = np.array(side.inputs), np.array(side.outputs)
    for trial in range(50):
        pixels = rng.integers(0, 256, (size + 2, size + 2))
        weights = rng.integers(-128, 128, (3, 3))
        if trial < 4:
            pixels = np.where(pixels > 127, 255, 0)
            weights = np.where(weights > 0, 127, -128)
        product = (taps @ weights @ taps.T) * (inputs @ pixels @ inputs.T)
        assert np.abs(inputs @ pixels @ inputs.T).max() < 1 << 15
        assert np.abs(taps @ weights @ taps.T).max() < 1 << 15
        sums = np.einsum("yxij,ij->yx", sliding_window_view(pixels, (3, 3)), weights)
        scale = DIVISOR * 2 ** np.array(side.shifts)
        assert np.array_equal(outputs @ product @ outputs.T, sums * np.outer(scale, scale))


def test_sides_are_tiles_of_two_sizes() -> None:
    assert INVERSE * DIVISOR**2 % (1 << 32) == 1
    for extent in range(1, 300):
        tiling = tiling_of(extent)
        if extent in (1, 2, 5):
            assert tiling is None
            continue
        assert tiling is not None
        assert LARGE * tiling.large + SMALL * tiling.small == extent
        assert tiling.small < LARGE
    assert tiling_of(0) is None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SHAPES)
def test_sums_are_exact(name: str, target: str, tmp_path: Path, cache: Path) -> None:
    """Every kind of schedule gives the sums of 64-bit integers."""
    shape, pads, dtype, zero = SHAPES[name]
    rng = np.random.default_rng(len(name))
    weights = bytes_of(rng, "int8", (shape[2], shape[1], 3, 3))
    model = convolution(shape, pads, dtype, zero, weights)
    options = whet.Options(threads=2, cache_dir=cache, target=target)
    (question,) = questions(model, options)
    plans = plans_of(question)
    assert plans
    x = bytes_of(rng, dtype, (shape[0], *shape[3:], shape[1]))
    expected = direct(x, pads, zero, weights)
    for plan in plans:
        chosen = tuned(tmp_path / "t.json", options, {question: answer_of(plan)})
        compiled = whet.compile(model, options=chosen)
        assert launches(compiled) == 1
        assert np.array_equal(compiled({"x": x})["y"], expected), plan


def test_taps_in_registers(tmp_path: Path, cache: Path) -> None:
    """Images of some tiles may keep the sums of a line, or of a part of it, in registers."""
    rng = np.random.default_rng(0)
    options = whet.Options(threads=2, cache_dir=cache, target="x86_64-linux-gnu:skylake-avx512")
    for size, depth in ((7, 64), (8, 32), (6, 136), (4, 40), (10, 32), (13, 16), (14, 64)):
        weights = bytes_of(rng, "int8", (21, depth, 3, 3))
        model = convolution((2, depth, 21, size, size), (1, 1, 1, 1), "int8", -5, weights)
        (question,) = questions(model, options)
        plan = next(p for p in plans_of(question) if p.in_registers)
        chosen = tuned(tmp_path / "t.json", options, {question: answer_of(plan)})
        x = bytes_of(rng, "int8", (2, size, size, depth))
        compiled = whet.compile(model, options=chosen)
        assert launches(compiled) == 1
        assert np.array_equal(compiled({"x": x})["y"], direct(x, (1, 1, 1, 1), -5, weights))


@pytest.mark.parametrize("tap", [127, -128])
def test_the_largest_sums_are_right(tap: int, cache: Path) -> None:
    """At the last number of channels whose sums fit, all of them are as large as they can be."""
    depth = ((1 << BITS) - 1) // (9 * 255 * abs(tap))
    weights = np.full((64, depth, 3, 3), tap, np.int8)
    assert is_exact(weights)
    assert not is_exact(np.full((1, depth + 1, 3, 3), tap, np.int8))
    model = convolution((1, depth, 64, 56, 56), (1, 1, 1, 1), "uint8", 0, weights)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    assert launches(compiled) == 1
    x = np.full((1, 56, 56, depth), 255, np.uint8)
    sums = compiled({"x": x})["y"]
    assert np.array_equal(sums, direct(x, (1, 1, 1, 1), 0, weights))
    assert np.abs(sums).max() >= (1 << BITS) * 0.98


def test_larger_sums_are_left_alone(cache: Path) -> None:
    weights = np.full((64, 128, 3, 3), -128, np.int8)
    assert not is_exact(weights)
    model = convolution((1, 128, 64, 28, 28), (1, 1, 1, 1), "uint8", 0, weights)
    options = whet.Options(threads=2, cache_dir=cache)
    assert not questions(model, options)
    compiled = whet.compile(model, options=options)
    assert not launches(compiled)
    x = np.full((1, 28, 28, 128), 255, np.uint8)
    assert np.array_equal(compiled({"x": x})["y"], direct(x, (1, 1, 1, 1), 0, weights))


def test_it_is_a_rewrite_with_a_name(cache: Path) -> None:
    weights = bytes_of(np.random.default_rng(1), "int8", (64, 64, 3, 3))
    model = convolution((1, 64, 64, 56, 56), (1, 1, 1, 1), "uint8", 0, weights)

    def count(**options: Any) -> int:
        return launches(whet.compile(model, options=whet.Options(cache_dir=cache, **options)))

    assert count() == count(opt_level=2) == count(passes={"winograd_bytes": 1}) == 1
    assert count(opt_level=1) == count(passes={"winograd_bytes": False}) == 0
    assert count(passes={"winograd_bytes": 0}) == 0


def test_any_number_of_images(cache: Path) -> None:
    rng = np.random.default_rng(2)
    weights = bytes_of(rng, "int8", (64, 64, 3, 3))
    model = convolution((1, 64, 64, 28, 28), (1, 1, 1, 1), "uint8", 4, weights)
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "images"
    results = []
    x = bytes_of(rng, "uint8", (3, 28, 28, 64))
    for threads in (1, 2, 3):
        compiled = whet.compile(model, options=whet.Options(threads=threads, cache_dir=cache))
        assert launches(compiled) == 1
        results.append(compiled({"x": x})["y"])
        assert np.array_equal(compiled({"x": x[:1]})["y"], results[-1][:1])
        assert compiled({"x": x[:0]})["y"].shape == (0, 64, 28, 28)
    expected = direct(x, (1, 1, 1, 1), 4, weights)
    assert all(np.array_equal(y, expected) for y in results)


def test_part_of_an_image_has_edges_of_its_own(cache: Path) -> None:
    """A window that leaves a part of an image reads what is outside, not what lies beside it."""
    rng = np.random.default_rng(3)
    weights = bytes_of(rng, "int8", (32, 64, 3, 3))
    model = convolution((1, 64, 32, 30, 30), (2, 2, 2, 2), "uint8", 4, weights)
    starts = [
        numpy_helper.from_array(np.array(v), n)
        for v, n in (([1, 1], "s"), ([29, 30], "e"), ([1, 2], "axes"))
    ]
    model.graph.initializer.extend(starts)
    model.graph.node.insert(0, helper.make_node("Slice", ["x", "s", "e", "axes"], ["part"]))
    model.graph.node[1].input[0] = "part"
    for d, extent in ((2, 30), (3, 31)):
        model.graph.output[0].type.tensor_type.shape.dim[d].dim_value = extent
    x = bytes_of(rng, "uint8", (1, 30, 30, 64))
    expected = direct(x[:, 1:29, 1:30], (2, 2, 2, 2), 4, weights)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    assert np.array_equal(compiled({"x": x})["y"], expected)


def test_schedules_are_tuned_and_looked_at(tmp_path: Path, cache: Path) -> None:
    """All that the tuner tries can be done, and nothing else is taken from a file."""
    rng = np.random.default_rng(4)
    weights = bytes_of(rng, "int8", (48, 64, 3, 3))
    model = convolution((1, 64, 48, 14, 14), (1, 1, 1, 1), "uint8", 1, weights)
    options = whet.Options(threads=2, cache_dir=cache)
    (question,) = questions(model, options)
    x = bytes_of(rng, "uint8", (1, 14, 14, 64))
    expected = direct(x, (1, 1, 1, 1), 1, weights)
    first = answer_of(plans_of(question)[0])
    tried = candidates(question, first)
    assert Answer() in tried
    assert len(tried) > 5
    for answer in tried:
        chosen = tuned(tmp_path / "t.json", options, {question: answer})
        assert np.array_equal(whet.compile(model, options=chosen)({"x": x})["y"], expected)
    tile = first.tile
    assert tile is not None
    wrong = (
        Answer(0, tile),
        Answer(17, tile),
        Answer(first.size, None),
        Answer(first.size, type(tile)(tile.rows, tile.vectors, 4, 1, 1, block=6)),
        Answer(first.size, type(tile)(99, tile.vectors, 4, 1, 1, block=64)),
        Answer(8, type(tile)(1, 1, 4, 1, 1, block=64), in_registers=True),
    )
    for answer in wrong:
        chosen = tuned(tmp_path / "t.json", options, {question: answer})
        with pytest.raises(OptionError, match="cannot be carried out"):
            whet.compile(model, options=chosen)


def kernel_of(size: int, depth: int, target: Target) -> IntegerWinograd:
    """Return the kernel that a target's code would have of a square image on one thread."""
    weights = bytes_of(np.random.default_rng(5), "int8", (depth, depth, 3, 3)) // 4
    graph = load_model(
        convolution((1, depth, depth, size, size), (1, 1, 1, 1), "uint8", 0, weights)
    )
    run_passes(graph, opt_level=3, switches={})
    schedules = Schedules(1, rewrites={"winograd_bytes": None})
    calls = lower(graph, op_table(), target, level=3, schedules=schedules).calls
    (kernel,) = (c.kernel for c in calls if isinstance(c.kernel, IntegerWinograd))
    return kernel


def expect_no_spills(kernel: IntegerWinograd, target: Target, least: int) -> None:
    """Expect that inner loops of at least so many products have all sums in registers."""
    text = assembly_of(kernel_text("k", kernel, (), target), target)
    name = "vpdpwssd" if target.dot == "vnni" else "vpmaddwd"
    loops = [loop for loop in inner_loops(text) if sum(name in line for line in loop) > least]
    assert loops
    for loop in loops:
        assert not any(SPILL.match(line) for line in loop)


@pytest.mark.parametrize("target", [CASCADELAKE, HASWELL])
def test_sums_stay_in_registers(target: str) -> None:
    chosen = named_target(target)
    expect_no_spills(kernel_of(56, 64, chosen), chosen, 8)


def test_lines_of_several_taps_are_transformed_once() -> None:
    """Others are read as they are."""
    several = [line for line, factors in enumerate(TAPS) if np.count_nonzero(factors) > 1]
    assert sorted(line for lines in TOGETHER for line in lines) == several
    assert list(STORED) == several


@pytest.mark.parametrize("room", [8, 24])
def test_every_column_is_transformed_beside_products(room: int) -> None:
    kernel = kernel_of(7, 512, named_target(ZEN))
    scratch = scratch_of(kernel, 16)
    parts = parts_of(scratch, room)
    found = [(c.number, tuple(c.lines)) for part in parts for c in part.columns]
    assert sorted(found) == sorted((j, lines) for j in range(3) for lines in TOGETHER)
    sums = [sum(p.tiles for p in part.positions) for part in parts]
    assert sum(sums) == 121
    assert max(sums) <= room


@pytest.mark.parametrize(
    ("size", "depth", "target"),
    [(7, 512, ZEN), (7, 512, CASCADELAKE), (7, 512, HASWELL), (14, 256, ZEN)],
)
def test_sums_stay_beside_weights_made_in_registers(size: int, depth: int, target: str) -> None:
    kernel = kernel_of(size, depth, named_target(ZEN))
    assert kernel.in_registers
    expect_no_spills(kernel, named_target(target), 4)


def test_it_is_chosen_where_it_multiplies_less() -> None:
    """Few channels and strange sizes are left to direct sums, and so is Arm."""
    target = named_target(ZEN)
    assert choose_integer_winograd(IntegerConvolution(1, 56, 56, 64, 64), target, 2) is not None
    assert choose_integer_winograd(IntegerConvolution(1, 56, 56, 8, 8), target, 2) is None
    assert choose_integer_winograd(IntegerConvolution(1, 5, 56, 64, 64), target, 2) is None
    arm = named_target("aarch64-linux-gnu:neoverse-n1")
    assert choose_integer_winograd(IntegerConvolution(1, 56, 56, 64, 64), arm, 2) is None
    small = choose_integer_winograd(IntegerConvolution(1, 7, 7, 512, 512), target, 2)
    assert small is not None
    assert small.in_registers
    deep = choose_integer_winograd(IntegerConvolution(1, 14, 14, 512, 512), target, 2)
    assert deep is not None
    assert deep.in_registers

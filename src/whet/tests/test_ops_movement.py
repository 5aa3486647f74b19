"""Operators that move elements: against the reference, with run-time dimensions, and their form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from whet.errors import ShapeError, UnsupportedError
from whet.index import Axis, Dim, Div, Mod, Opaque, as_poly, var
from whet.kernel.expr import Guard, Load, all_atoms, walk
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Tensor, axes_for
from whet.ops.movement import concat_parts
from whet.ops.node import constant
from whet.ops.views import reshape_index
from whet.tests.ops_harness import check, input_tensors, lower_node, reference, run_node, verify

RNG = np.random.default_rng(11)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same numbers, in whatever order tests run."""
    RNG.bit_generator.state = START


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def atoms_of(tensor: Tensor) -> set[type]:
    """Return the kinds of atoms in a tensor's indices."""
    assert tensor.definition is not None
    exprs = walk(tensor.definition.body)
    return {type(a) for e in exprs for p in e.indices() for a in all_atoms(p)}


# -- views -----------------------------------------------------------------------------------------

RESHAPES = [
    ((2, 3, 4), ("N", 3, 4), (0, -1)),
    ((2, 3, 4), ("N", 3, 4), (-1, 12)),
    ((2, 6, 8), ("N", "S", 8), (0, 0, 2, 4)),
    ((2, 6, 2, 4), ("N", "S", 2, 4), (0, 0, 8)),
    ((2, 6, 8), ("N", 6, 8), (-1, 3, 2, 8)),
    ((2, 12), ("N", 12), (0, 4, 3, 1)),
    ((4, 6), (4, 6), (3, 8)),
    ((2, 3), (2, 3), (1, 6, 1)),
    ((1, 1), (1, 1), (1,)),
]


@pytest.mark.parametrize(("shape", "symbolic", "target"), RESHAPES)
def test_reshape(
    shape: tuple[int, ...], symbolic: tuple[int | str, ...], target: tuple[int, ...]
) -> None:
    verify("Reshape", numbers(*shape), ints(*target), shapes=(symbolic,))


def test_reshape_that_splits_a_dimension_is_affine() -> None:
    batch, length = var(Dim("N")), var(Dim("S"))
    source = (batch, length, as_poly(768))
    target = (batch, length, as_poly(12), as_poly(64))
    index = reshape_index(source, target, axes_for(target))
    assert not any(isinstance(a, Div | Mod) for p in index for a in p.atoms)
    back = reshape_index(target, source, axes_for(source))
    assert {type(a) for a in back[2].atoms} == {Axis, Div}


def test_reshape_errors() -> None:
    for target, message in ((ints(5), "does not fit"), (ints(-1, -1), "more than one")):
        node = onnx.helper.make_node("Reshape", ["x", "t"], ["y"])
        with pytest.raises(ShapeError, match=message):
            run_node(node, {"x": numbers(2, 3), "t": target})


def test_views_of_run_time_shapes() -> None:
    x = numbers(2, 1, 3, 4)
    shapes = (("N", 1, "H", 4),)
    verify("Transpose", x, shapes=shapes, perm=[2, 0, 3, 1])
    verify("Flatten", x, shapes=shapes, axis=2)
    verify("Flatten", x, shapes=shapes, axis=0)
    verify("Squeeze", x, ints(1), shapes=shapes)
    verify("Squeeze", x)
    verify("Unsqueeze", x, ints(0, -1), shapes=shapes)
    verify("Identity", x, shapes=shapes)
    verify("Expand", x, ints(2, 5, 3, 4), shapes=((2, 1, 3, 4),))
    verify("Tile", x, ints(2, 3, 1, 2), shapes=shapes)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    verify(
        "DepthToSpace", numbers(2, 8, 3, 4), shapes=(("N", 8, "H", "W"),), blocksize=2, mode=mode
    )


# -- parts -----------------------------------------------------------------------------------------

FAR = np.iinfo(np.int64).max
SLICES = [
    (("N", 10), [1], [9], [1], [1]),
    (("N", 10), [8], [1], [1], [-3]),
    (("N", 10), [-1], [-FAR], [1], [-1]),
    (("N", 10), [2], [FAR], [1], [2]),
    (("N", "S"), [0], [-1], [1], [1]),
    (("N", "S"), [1], [FAR], [1], [1]),
    (("N", "S"), [-1], [FAR], [1], [1]),
    (("N", "S"), [0], [1], [1], [1]),
    (("N", "S"), [0], [FAR], [1], [2]),
    (("N", "S"), [-1], [-FAR], [1], [-1]),
]


@pytest.mark.parametrize(("symbolic", "starts", "ends", "axes", "steps"), SLICES)
def test_slice(
    symbolic: tuple[int | str, ...],
    starts: list[int],
    ends: list[int],
    axes: list[int],
    steps: list[int],
) -> None:
    parameters = (ints(*p) for p in (starts, ends, axes, steps))
    verify("Slice", numbers(3, 10), *parameters, shapes=(symbolic,))


def test_slice_that_may_not_fit() -> None:
    node = onnx.helper.make_node("Slice", ["x", "s", "e", "a"], ["y"])
    for length in (1, 5, 10):
        arrays = {"x": numbers(3, length), "s": ints(0), "e": ints(5), "a": ints(1)}
        check(run_node(node, arrays, {"x": ("N", "S")}), reference(node, arrays))


def test_slice_up_to_a_run_time_length_reads_inside() -> None:
    node = onnx.helper.make_node("Slice", ["x", "s", "e"], ["y"])
    length = Tensor("e", (as_poly(1),), "int64", known=(var(Dim("S")),))
    table = constant("x", numbers(8, 2))
    (y,) = lower_node(node, {"x": table, "s": constant("s", ints(0)), "e": length})
    assert y.shape == (var(Dim("S")), as_poly(2))
    assert y.definition is not None
    assert isinstance(y.definition.body, Guard)


def test_split() -> None:
    x = numbers(2, 7)
    verify("Split", x, ints(3, 4), shapes=(("N", 7),), outputs=2, axis=1)
    verify("Split", x, shapes=(("N", 7),), outputs=3, axis=1, num_outputs=3)
    with pytest.raises(ShapeError, match="do not add up"):
        verify("Split", x, ints(3, 3), outputs=2, axis=1)


def test_concat_and_its_parts() -> None:
    x, y, z = numbers(2, 3, 4), numbers(2, 1, 4), numbers(2, 5, 4)
    verify("Concat", x, y, z, shapes=(("N", 3, 4), ("N", 1, 4), ("N", "S", 4)), axis=1)
    verify("Concat", x, axis=0)
    node = onnx.helper.make_node("Concat", ["x", "y", "z"], ["c"], axis=-2)
    arrays = {"x": x, "y": y, "z": z}
    tensors = input_tensors(node, arrays, {"y": (2, "S", 4)})
    (joined,) = lower_node(node, tensors)
    length = var(Dim("S"))
    expected = [(tensors["x"], as_poly(0)), (tensors["y"], as_poly(3)), (tensors["z"], length + 3)]
    assert concat_parts(joined) == (1, expected)


def test_other_guards_are_no_concat() -> None:
    node = onnx.helper.make_node("Pad", ["x", "p"], ["y"])
    arrays = {"x": numbers(2, 3), "p": ints(0, 1, 0, 2)}
    (padded,) = lower_node(node, input_tensors(node, arrays))
    assert concat_parts(padded) is None


def test_concat_of_different_ranks() -> None:
    with pytest.raises(ShapeError, match="rank"):
        node = onnx.helper.make_node("Concat", ["x", "y"], ["z"], axis=0)
        run_node(node, {"x": numbers(2), "y": numbers(2, 1)})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [(0, 1, 2, 0, 1, 1), (0, 0, 0, 0, 0, 3), (0, 0, 0, 0, 0, 0)])
def test_pad(mode: str, pads: tuple[int, ...]) -> None:
    verify("Pad", numbers(2, 4, 5), ints(*pads), shapes=(("N", 4, 5),), mode=mode)


@pytest.mark.parametrize("mode", ["constant", "edge", "wrap"])
def test_pad_of_run_time_dimensions(mode: str) -> None:
    verify("Pad", numbers(2, 4, 5), ints(0, 1, 2, 0, 1, 1), shapes=(("N", "H", "W"),), mode=mode)


def test_pad_reflects_more_than_once() -> None:
    verify("Pad", numbers(2, 3), ints(0, 5, 0, 7), mode="reflect")


def test_pad_with_value_axes_and_cropping() -> None:
    x = numbers(2, 4, 5)
    verify("Pad", x, ints(1, 2), np.array(3, np.float32), ints(2), shapes=(("N", 4, 5),))
    for mode in ("constant", "edge", "reflect"):
        node = onnx.helper.make_node("Pad", ["x", "p", "", "a"], ["y"], mode=mode)
        (y,) = run_node(node, {"x": x, "p": ints(-1, -2), "a": ints(2)})
        np.testing.assert_array_equal(y, x[:, :, 1:-2])


@pytest.mark.parametrize("pads", [(-1, 2), (2, -1), (-2, 7), (-1, -1)])
def test_pad_that_wraps_repeats_what_is_left(pads: tuple[int, int]) -> None:
    """As ONNX Runtime and PyTorch do; the reference cannot cut."""
    x = numbers(2, 5)
    node = onnx.helper.make_node("Pad", ["x", "p", "", "a"], ["y"], mode="wrap")
    arrays = {"x": x, "p": ints(*pads), "a": ints(1)}
    (y,) = run_node(node, arrays, {"x": ("N", 5)})
    left = x[:, max(-pads[0], 0) : 5 + min(pads[1], 0)]
    wanted = np.pad(left, [(0, 0), (max(pads[0], 0), max(pads[1], 0))], mode="wrap")
    np.testing.assert_array_equal(y, wanted)
    if max(pads) > 0:
        with pytest.raises(UnsupportedError, match="fix the size of the dimension"):
            run_node(node, arrays, {"x": ("N", "W")})


# -- gather ----------------------------------------------------------------------------------------


def gathered(indices: np.ndarray, shape: tuple[int | str, ...] = (4, 6)) -> Tensor:
    node = onnx.helper.make_node("Gather", ["x", "i"], ["y"], axis=1)
    tensors = input_tensors(node, {"x": numbers(4, 6)}, {"x": shape})
    (y,) = lower_node(node, {**tensors, "i": constant("i", indices)})
    return y


def test_gather_of_even_indices_is_a_view() -> None:
    assert atoms_of(gathered(ints(1, 3, 5))) == {Axis}
    assert atoms_of(gathered(np.array(-1))) == {Axis}
    assert atoms_of(gathered(np.array(-1), (4, "S"))) == {Axis, Dim}
    assert Opaque in atoms_of(gathered(ints(1, 2, 5)))


def test_gather_outside() -> None:
    with pytest.raises(ShapeError, match="outside"):
        gathered(ints(1, 6, 2))


def test_gather_by_data() -> None:
    x, i = numbers(4, 6, 3), ints(1, -1, 3, 0).reshape(2, 2)
    for axis in (0, 1, 2):
        index = i % x.shape[axis] if axis == 2 else i
        verify("Gather", x, index, shapes=(("V", 6, 3), ("N", 2)), axis=axis)


def test_gather_of_computed_indices_stays_inside() -> None:
    y = gathered(ints(0, 0))
    assert y.definition is not None
    assert isinstance(y.definition.body, Load)


def test_gather_elements_and_nd() -> None:
    x = numbers(3, 4, 5)
    verify("GatherElements", x, RNG.integers(-4, 4, (3, 2, 5)), axis=1)
    verify("GatherND", x, RNG.integers(0, 3, (2, 2)), shapes=((3, "H", 5), ("N", 2)))
    verify("GatherND", x, RNG.integers(0, 4, (3, 2, 1)), batch_dims=1, shapes=(("N", 4, 5),))


# -- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-5, -1, 0, 2, 9])
@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(k: int, upper: int) -> None:
    x = numbers(2, 4, 5)
    verify("Trilu", x, np.array(k), shapes=((2, "S", "S2"),), upper=upper)
    node = onnx.helper.make_node("Trilu", ["x", "k"], ["y"], upper=upper)
    tensors = {**input_tensors(node, {"x": x}), "k": constant("k", np.array(k))}
    (y,) = lower_node(node, tensors)
    expected = np.triu(x, k) if upper else np.tril(x, k)
    np.testing.assert_array_equal(evaluate_tensor(y, {"x": x}), expected)


def test_range_one_hot_eye() -> None:
    verify("Range", np.array(2), np.array(11), np.array(3))
    verify("Range", np.array(1.5, np.float32), np.array(4, np.float32), np.array(0.5, np.float32))
    verify("OneHot", ints(0, 3, -1), np.array(4), numbers(2), shapes=(("N",),), axis=0)
    verify("EyeLike", numbers(3, 5), shapes=(("N", 5),), k=1)
    verify("ConstantOfShape", ints(2, 3))


@pytest.mark.parametrize(
    ("start", "limit", "delta"),
    [
        (np.array(7), np.array(-6_000_000), np.array(-3)),
        (np.array(0, np.int32), np.array(1_500_000, np.int32), np.array(1, np.int32)),
        (np.array(-1.5, np.float32), np.array(2e6, np.float32), np.array(0.5, np.float32)),
    ],
)
def test_a_long_range_is_computed_where_it_is_read(start: Any, limit: Any, delta: Any) -> None:
    node = onnx.helper.make_node("Range", ["a", "b", "d"], ["y"])
    given = {"a": start, "b": limit, "d": delta}
    (y,) = lower_node(node, {name: constant(name, value) for name, value in given.items()})
    assert y.value is None
    np.testing.assert_array_equal(evaluate_tensor(y, {}), np.arange(start, limit, delta))


def test_cumulative_sum() -> None:
    for exclusive in (0, 1):
        for reverse in (0, 1):
            verify(
                "CumSum",
                numbers(3, 4),
                np.array(1),
                shapes=(("N", "S"),),
                exclusive=exclusive,
                reverse=reverse,
            )

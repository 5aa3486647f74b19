"""Extents that only a run knows: none at all, windows that need them, and those that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, ShapeError
from whet.runtime.model import CompiledModel
from whet.tests.node_models import NodeModel, assert_same
from whet.tests.ops_harness import Shape, reference

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Open:
    """An operator whose inputs have names for extents.

    Attributes:
        op: operator type.
        symbols: shapes of the inputs that a run gives.
        extents: values of the names, one set for each run.
        constants: inputs behind those, known when compiling.
        attributes: attributes of the node.
    """

    op: str
    symbols: tuple[Shape, ...]
    extents: tuple[Mapping[str, int], ...]
    constants: tuple[Array, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def node(self, extents: Mapping[str, int], seed: int = 3) -> NodeModel:
        """Return the node with random inputs of some extents."""
        rng = np.random.default_rng(seed)
        shapes = [tuple(extents.get(str(e), e) for e in s) for s in self.symbols]
        given = [rng.standard_normal([int(e) for e in s]).astype(np.float32) for s in shapes]
        constants = frozenset(range(len(given), len(given) + len(self.constants)))
        arrays = [*given, *self.constants]
        names = dict(enumerate(self.symbols))
        return NodeModel(self.op, arrays, self.attributes, constants, symbols=names)

    def compiled(self) -> CompiledModel:
        """Compile it once for any extents."""
        return self.node(self.extents[0]).compiled()


AXIS = np.array([0])
NONE_AND_SOME = ({"n": 0}, {"n": 3})
ZEROS = {
    "sum": Open("ReduceSum", (("n", 4),), NONE_AND_SOME, (AXIS,), {"keepdims": 0}),
    "max": Open("ReduceMax", (("n", 4),), NONE_AND_SOME, (AXIS,)),
    "all": Open("ReduceProd", ((2, "n"),), NONE_AND_SOME, (np.array([0, 1]),), {"keepdims": 0}),
    "past": Open("Concat", ((2, "n", 3), (2, "m", 3)), ({"n": 0, "m": 2}, {"n": 5, "m": 1}),
                 (), {"axis": 1}),
    "depth": Open("MatMul", (("m", "n"), ("n", 5)), ({"m": 3, "n": 0}, {"m": 2, "n": 7})),
    "gemm": Open("Gemm", (("m", "n"), ("n", 5), (5,)), ({"m": 3, "n": 0}, {"m": 2, "n": 7})),
    "pad": Open("Pad", ((2, "n"),), NONE_AND_SOME, (np.array([0, 1, 0, 2]),)),
    "shape": Open("Shape", (("n", 4),), NONE_AND_SOME),
    "rows": Open("Reshape", (("m", "n", 4),), ({"m": 2, "n": 0}, {"m": 2, "n": 3}),
                 (np.array([-1, 8]),)),
}  # fmt: skip


@pytest.mark.parametrize("name", ZEROS)
def test_no_elements_along_an_open_dimension(name: str) -> None:
    case = ZEROS[name]
    model = case.compiled()
    for extents in case.extents:
        node = case.node(extents)
        arrays = {f"x{k}": a for k, a in enumerate(node.arrays) if a is not None}
        (found,), (right,) = node.run(model), reference(node.node(), arrays)
        assert_same(found, right)


def test_where_an_element_is_taken_there_must_be_one() -> None:
    case = Open("Gather", ((2, "n", 3),), ({"n": 1},), (np.array(0),), {"axis": 1})
    model = case.compiled()
    assert case.node({"n": 4}).run(model)[0].shape == (2, 3)
    with pytest.raises(InputError, match="'n' is 0"):
        model(case.node({"n": 0}).given())


def test_a_window_that_does_not_fit_is_refused() -> None:
    case = Open("MaxPool", ((1, 2, "n"),), ({"n": 5},), (), {"kernel_shape": [4]})
    model = case.compiled()
    assert case.node({"n": 4}).run(model)[0].shape == (1, 2, 1)
    with pytest.raises(InputError):
        model(case.node({"n": 1}).given())


def test_reshapes_that_do_not_fit_are_refused() -> None:
    for target in (np.array([-1, 8]), np.array([0, 1, 12])):
        case = Open("Reshape", (("m", "n", 4),), ({"m": 1, "n": 3},), (target,))
        model = case.node({"m": 2, "n": 2 if target[0] else 3}).compiled()
        for extents in ({"m": 1, "n": 1}, {"m": 3, "n": 1}):
            with pytest.raises(ShapeError):
                model(case.node(extents).given())


SIDES = tuple({"h": n, "w": m} for n, m in ((1, 9), (7, 8), (8, 7), (10, 3)))
KERNEL = np.random.default_rng(5).standard_normal((4, 3, 3, 2)).astype(np.float32)


def _pool(op: str, **attributes: Any) -> Open:
    return Open(op, ((2, 3, "h", "w"),), SIDES, (), attributes)


def _conv(op: str, weights: Array, **attributes: Any) -> Open:
    return Open(op, ((2, 3, "h", "w"),), SIDES, (weights,), attributes)


WINDOWS = {
    "max_ceil": _pool("MaxPool", kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1, pads=[1] * 4),
    "mean_ceil": _pool("AveragePool", kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1,
                       pads=[1] * 4, count_include_pad=1),
    "upper": _pool("MaxPool", kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_UPPER"),
    "lower": _pool("AveragePool", kernel_shape=[2, 5], strides=[3, 2], auto_pad="SAME_LOWER"),
    "dense": _conv("Conv", KERNEL, strides=[2, 3], auto_pad="SAME_UPPER"),
    "short": _conv("Conv", KERNEL[:, :, :1, :1], strides=[2, 3], auto_pad="SAME_LOWER"),
    "depth": _conv("Conv", KERNEL[:3, :1], strides=[2, 2], auto_pad="SAME_UPPER", group=3),
    "back": _conv("ConvTranspose", KERNEL[:3], strides=[2, 3], auto_pad="SAME_UPPER"),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_over_open_sides(name: str) -> None:
    """They give what the same windows give where the sides are known."""
    case = WINDOWS[name]
    model = case.compiled()
    for extents in case.extents:
        node = case.node(extents)
        (found,) = node.run(model)
        (right,) = replace(node, symbols={}).equations()
        assert_same(found, right)

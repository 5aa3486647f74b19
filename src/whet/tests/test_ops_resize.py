"""Resize: which forms are index arithmetic, what run-time sizes allow, refused settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from whet.errors import UnsupportedError
from whet.index import Opaque
from whet.kernel.expr import all_atoms, walk
from whet.ops.node import constant
from whet.tests.ops_harness import (
    Shape,
    check,
    input_tensors,
    lower_node,
    reference,
    run_node,
    verify,
)

RNG = np.random.default_rng(17)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same numbers, in whatever order tests run."""
    RNG.bit_generator.state = START


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def scales(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def looks_up(x: np.ndarray, factors: np.ndarray, shape: Shape, **options: Any) -> bool:
    """Tell whether a nearest resize reads its indices from a table."""
    node = onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", **options)
    tensors = {**input_tensors(node, {"x": x}, {"x": shape}), "s": constant("s", factors)}
    (y,) = lower_node(node, tensors)
    assert y.definition is not None
    exprs = walk(y.definition.body)
    return any(isinstance(a, Opaque) for e in exprs for p in e.indices() for a in all_atoms(p))


def test_whole_factors_are_index_arithmetic() -> None:
    x, shape = numbers(1, 2, 4, 6), ("N", 2, 4, 6)
    assert not looks_up(x, scales(1, 1, 2, 2), shape)
    assert not looks_up(x, scales(1, 1, 0.5, 0.5), shape)
    assert looks_up(x, scales(1, 1, 1.5, 1.5), shape)


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_of_run_time_images(coordinates: str, rounding: str) -> None:
    options: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": coordinates}
    options["nearest_mode"] = rounding
    shapes = (("N", 2, "H", "W"),)
    verify("Resize", numbers(2, 2, 3, 5), None, scales(1, 1, 2, 3), shapes=shapes, **options)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(
    "coordinates",
    ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"],
)
@pytest.mark.parametrize("antialias", [0, 1])
def test_interpolation(mode: str, coordinates: str, antialias: int) -> None:
    options: dict[str, Any] = {"mode": mode, "antialias": antialias}
    options["coordinate_transformation_mode"] = coordinates
    x, limits = numbers(1, 2, 5, 7), {"rtol": 1e-4, "atol": 1e-5}
    for factors in (scales(1, 1, 2, 1.6), scales(1, 1, 0.4, 0.7)):
        node = onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], **options)
        arrays = {"x": x, "s": factors}
        check(run_node(node, arrays, {"x": ("N", 2, 5, 7)}), reference(node, arrays), **limits)


def test_sizes() -> None:
    x = numbers(2, 2, 4, 6)
    verify("Resize", x, None, None, np.array([2, 2, 7, 3]), mode="linear")
    verify(
        "Resize",
        x,
        None,
        None,
        np.array([7, 3]),
        mode="nearest",
        axes=[2, 3],
        shapes=(("N", 2, 4, 6),),
    )


def test_same_size_is_a_copy() -> None:
    x = numbers(2, 3)
    for mode in ("nearest", "linear", "cubic"):
        verify("Resize", x, None, scales(1, 1), mode=mode, shapes=(("N", 3),))


def test_run_time_dimensions_by_any_factor() -> None:
    for mode in ("nearest", "linear", "cubic"):
        verify("Resize", numbers(2, 5), None, scales(1, 2.3), mode=mode, shapes=(("N", "W"),))
        verify("Resize", numbers(2, 5), None, scales(2, 0.6), mode=mode, shapes=(("N", "W"),))


def test_refused() -> None:
    node = onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], mode="lanczos")
    with pytest.raises(UnsupportedError, match="lanczos"):
        run_node(node, {"x": numbers(2, 3), "s": scales(1, 2)})

"""Operators that read images between their elements, against PyTorch and the reference."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.tests.compiled_node import Array, check_node

SIZES = [((5, 7), (4, 3)), ((1, 1), (2, 2)), ((3, 4, 5), (2, 3, 4)), ((6,), (5,))]
TORCH_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


def _with_torch(mode: str, padding: str, corners: int) -> Any:
    torch = pytest.importorskip("torch")

    def sample(x: Array, grid: Array) -> list[Array]:
        sampled = torch.nn.functional.grid_sample(
            torch.tensor(x),
            torch.tensor(grid),
            mode=TORCH_MODES[mode],
            padding_mode=padding,
            align_corners=bool(corners),
        )
        return [sampled.numpy()]

    return sample


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mode", list(TORCH_MODES))
def test_grid_sample(sizes: tuple[tuple[int, ...], tuple[int, ...]], mode: str) -> None:
    dims, outs = sizes
    rng = np.random.default_rng(len(dims))
    x = rng.standard_normal((2, 3, *dims))
    grid = rng.uniform(-2.2, 2.2, (2, *outs, len(dims)))
    names = ["A", "B", "C"][: len(dims)]
    runtime: Any = [["N", 3, *names], ["N", *(f"{n}o" for n in names), len(dims)]]
    for padding, corners in product(("zeros", "border", "reflection"), (0, 1)):
        known = len(dims) == 2 or (len(dims) == 3 and mode != "cubic")
        if not known and dims == (1, 1):
            continue
        form: Any = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        oracle = _with_torch(mode, padding, corners) if known else None
        if oracle is None and (mode, padding) == ("cubic", "border"):
            continue  # the reference moves the position inside, not the taps
        dtype = "float64" if known and corners else "float32"
        shapes = runtime if padding == "reflection" and corners else []
        check_node("GridSample", x, grid, shapes=shapes, dtypes=[dtype], expected=oracle, **form)


@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 1, 1), (2, 1, 3, 2, 7)])
@pytest.mark.parametrize("corners", [0, 1])
def test_affine_grid(size: tuple[int, ...], corners: int) -> None:
    rank = len(size) - 2
    theta = np.random.default_rng(rank).standard_normal((size[0], rank, rank + 1))
    goal = np.array(size, np.int64)
    check_node("AffineGrid", theta, goal, shapes=[["N", rank, rank + 1]], align_corners=corners)


@pytest.mark.parametrize("corners", [0, 1])
def test_affine_grid_of_open_sizes(corners: int) -> None:
    """An image of one pixel is no division by zero, whenever its size is known."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("AffineGrid", ["theta", "s"], ["y"], align_corners=corners),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "H", "W"]),
        helper.make_tensor_value_info("theta", TensorProto.FLOAT, [1, 2, 3]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(helper.make_graph(nodes, "grid", inputs, outputs))
    compiled = whet.compile(model, options=whet.Options(threads=1))
    theta = np.array([[[1, 0.2, 0.1], [-0.1, 0.8, 0]]], np.float32)
    for size in ((1, 3), (4, 1), (1, 1), (2, 5)):
        given = {"x": np.zeros((1, 2, *size), np.float32), "theta": theta}
        with np.errstate(divide="ignore"):
            (wanted,) = ReferenceEvaluator(model).run(None, given)
        np.testing.assert_allclose(compiled(given)["y"], np.asarray(wanted), rtol=0, atol=1e-6)

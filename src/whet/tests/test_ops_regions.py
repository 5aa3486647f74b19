"""Regions, deformed windows, folded blocks and determinants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.errors import UnsupportedError
from whet.tests.compiled_node import Array, check_node


def _normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape)


def _regions(count: int, height: int, width: int) -> Array:
    """Return corners, some of them outside of the image and some the wrong way round."""
    rng = np.random.default_rng(count)
    corners = rng.uniform(-3, max(height, width) + 3, (count, 4))
    corners[1:, 2:] = corners[1:, :2] + np.abs(corners[1:, 2:] - corners[1:, :2])
    return corners


@pytest.mark.parametrize("sizes", [(2, 3, 9, 7), (1, 1, 1, 1), (3, 2, 5, 11)])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("half", ["half_pixel", "output_half_pixel"])
def test_roi_align(sizes: tuple[int, ...], ratio: int, half: str) -> None:
    x, rois = _normal(*sizes), _regions(6, *sizes[2:])
    images = np.random.default_rng(2).integers(0, sizes[0], 6)
    form: Any = {
        "coordinate_transformation_mode": half,
        "sampling_ratio": ratio,
        "output_height": 3,
        "output_width": 2,
        "spatial_scale": 0.75,
    }
    runtime: Any = [["N", sizes[1], "H", "W"], ["R", 4], ["R"]]
    check_node("RoiAlign", x, rois, images, shapes=runtime, dtypes=["float64"], **form)
    if ratio:
        check_node("RoiAlign", x, rois, images, **form, mode="max")
    else:
        with pytest.raises(UnsupportedError, match="adaptive"):
            check_node("RoiAlign", x, rois, images, **form, mode="max")


def _max_roi_pool(x: Array, rois: Array, bins: tuple[int, int], scale: float) -> Array:
    result = np.zeros((len(rois), x.shape[1], *bins))
    for r, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (int(np.floor(c * scale + 0.5)) for c in corners)
        for p in range(bins[0]):
            for q in range(bins[1]):
                height, width = max(y2 - y1 + 1, 1) / bins[0], max(x2 - x1 + 1, 1) / bins[1]
                top, left = int(np.floor(p * height)) + y1, int(np.floor(q * width)) + x1
                low, right = int(np.ceil((p + 1) * height)) + y1, int(np.ceil((q + 1) * width)) + x1
                part = x[int(image), :, max(top, 0) : max(low, 0), max(left, 0) : max(right, 0)]
                result[r, :, p, q] = part.max((1, 2)) if part.size else 0
    return result


def test_max_roi_pool() -> None:
    x = _normal(2, 3, 9, 7)
    rois = np.array([[0, 0, 0, 6, 8], [1, 2, 3, 5, 9], [1, 4, 4, 4, 4], [0, 7, 9, 12, 12]], float)
    form: Any = {"pooled_shape": (4, 2), "spatial_scale": 0.5}

    def expected(x: Array, rois: Array) -> list[Array]:
        return [_max_roi_pool(x, rois, (4, 2), 0.5)]

    runtime: Any = [["N", 3, "H", "W"], ["R", 5]]
    dtypes = ("float32", "float64", "float16")
    check_node("MaxRoiPool", x, rois, shapes=runtime, dtypes=dtypes, expected=expected, **form)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("offsets", [1, 2])
def test_deformable_convolution(group: int, offsets: int) -> None:
    x, w, bias = _normal(2, 4, 5, 6), _normal(6, 4 // group, 2, 3), _normal(6)
    form: Any = {"group": group, "offset_group": offsets, "pads": [1, 0, 1, 2], "strides": [2, 1]}
    offset, mask = _normal(2, offsets * 12, 3, 6) * 1.5, _normal(2, offsets * 6, 3, 6)
    runtime: Any = [["N", 4, 5, 6], None, ["N", offsets * 12, 3, 6]]
    check_node("DeformConv", x, w, offset, bias, mask, **form)
    check_node("DeformConv", x, w, offset, shapes=runtime, **form)


def test_without_offsets_it_is_a_convolution() -> None:
    torch = pytest.importorskip("torch")
    x, w = _normal(1, 2, 3, 4, 5), _normal(3, 2, 2, 2, 2)

    def expected(x: Array, w: Array, _: Array) -> list[Array]:
        return [torch.nn.functional.conv3d(torch.tensor(x), torch.tensor(w)).numpy()]

    check_node("DeformConv", x, w, np.zeros((1, 24, 2, 3, 4)), expected=expected)


@pytest.mark.parametrize(
    ("image", "block", "form"),
    [
        ((5, 6), (2, 3), {}),
        ((7, 4), (3, 1), {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
        ((6, 6), (2, 2), {"dilations": [2, 3], "strides": [1, 2]}),
        ((3, 4, 5), (2, 1, 3), {"pads": [0, 1, 1, 0, 1, 1]}),
    ],
)
def test_col2im(image: tuple[int, ...], block: tuple[int, ...], form: dict[str, Any]) -> None:
    rank = len(image)
    pads = form.get("pads", [0] * 2 * rank)
    blocks = 1
    for k, (extent, size) in enumerate(zip(image, block, strict=True)):
        reach = form.get("dilations", [1] * rank)[k] * (size - 1) + 1
        blocks *= (extent + pads[k] + pads[rank + k] - reach) // form.get("strides", [1] * rank)[
            k
        ] + 1
    x = _normal(2, 3 * int(np.prod(block)), blocks)
    shape, sizes = np.array(image), np.array(block)
    runtime: Any = [["N", *x.shape[1:]]]
    check_node("Col2Im", x, shape, sizes, shapes=runtime, dtypes=("float32", "float64"), **form)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_determinants(size: int) -> None:
    x = _normal(3, 2, size, size)
    x[0, 0, 0] = 0
    if size > 2:
        x[1, 0, 0, 0] = 0
        x[2, 1, 1] = x[2, 1, 0]
    check_node("Det", x, shapes=[["N", 2, size, size]], dtypes=("float32", "float64"))
    check_node("Det", x[0, 1])

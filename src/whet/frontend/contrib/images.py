"""Convolution and pooling with activations, channels last, and older image operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.activations import activate
from whet.frontend.contrib.layouts import channels_first, channels_last
from whet.frontend.translation import Foreign, Translation

CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def fused_conv(t: Translation) -> ir.Value:
    """FusedConv: ``activation(conv(x) + z)``."""
    return _conv(t, t.input(0), t.optional(3))


def nhwc_conv(t: Translation) -> ir.Value:
    """NhwcConv and NhwcFusedConv: images channels last, the filter as in Conv."""
    z = t.optional(3)
    y = _conv(t, channels_first(t, t.input(0)), None if z is None else channels_first(t, z))
    return channels_last(t, y)


def _conv(t: Translation, x: ir.Value, z: ir.Value | None) -> ir.Value:
    name, numbers = t.take("activation", ""), t.take("activation_params", ())
    y = t.op("Conv", x, t.input(1), t.optional(2), **t.rest(*CONV))
    return activate(t, y if z is None else t.op("Add", y, z), name, numbers)


def nhwc_max_pool(t: Translation) -> ir.Value:
    """NhwcMaxPool: images channels last."""
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    y = t.op("MaxPool", channels_first(t, t.input(0)), **t.rest(*names))
    return channels_last(t, y)


def conv_transpose_dynamic_pads(t: Translation) -> ir.Value:
    """ConvTransposeWithDynamicPads: the pads are an input, which has to be constant."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    pads = t.optional(2)
    numbers = None if pads is None else [int(p) for p in t.constant(pads)]
    attributes = t.rest(*names)
    return t.op("ConvTranspose", t.input(0), t.input(1), t.optional(3), pads=numbers, **attributes)


def grid_sample(t: Translation) -> ir.Value:
    """GridSample: the standard one, whose modes have other names."""
    mode = t.take("mode", "bilinear")
    modes = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    if mode not in modes:
        raise t.refuse(f"mode={mode} is not supported")
    attributes = t.rest("align_corners", "padding_mode")
    return t.op("GridSample", t.input(0), t.input(1), mode=modes[mode], **attributes)


def crop_and_resize(t: Translation) -> ir.Value:
    """CropAndResize: boxes ``(y1, x1, y2, x2)`` of images, sampled with corners aligned.

    A grid of points through each box, from -1 to 1 across the image, is what GridSample takes; a
    point outside of the image has the extrapolation value. Of a single row or column the middle is
    taken.
    """
    x, boxes, images, size = (t.input(k) for k in range(4))
    mode, outside = t.take("mode", "bilinear"), t.take("extrapolation_value", 0.0)
    if mode != "bilinear":
        raise t.refuse(f"mode={mode} is not supported")
    height, width = (int(n) for n in t.constant(size))
    corners = [t.slice(boxes, 1, k, k + 1) for k in range(4)]
    rows = _between(t, corners[0], corners[2], height)
    columns = _between(t, corners[1], corners[3], width)
    full = t.op("Concat", t.length(boxes, 0), np.array([height, width], np.int64), axis=0)
    parts = [
        t.unsqueeze(t.op("Expand", t.unsqueeze(p, axis), full), 3)
        for p, axis in ((columns, 1), (rows, 2))
    ]
    grid = t.op("Concat", *parts, axis=3)
    chosen = t.op("Gather", x, images, axis=0)
    y = t.op("GridSample", chosen, grid, mode="linear", padding_mode="border", align_corners=1)
    reach = t.op("ReduceMax", t.op("Abs", grid), np.array([3]), keepdims=0)
    inside = t.unsqueeze(t.op("LessOrEqual", reach, t.scalar(1.0, reach)), 1)
    return t.op("Where", inside, y, t.scalar(outside, x))


def _between(t: Translation, first: ir.Value, last: ir.Value, count: int) -> ir.Value:
    """Return ``count`` evenly spaced coordinates for each box, scaled from 0…1 to -1…1."""
    steps = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    share = steps.reshape(1, -1).astype(t.dtype(first).numpy())
    place = t.op("Add", first, t.op("Mul", t.op("Sub", last, first), share))
    return t.op("Sub", t.op("Mul", place, t.scalar(2.0, first)), t.scalar(1.0, first))


OPS = (
    Foreign("FusedConv", fused_conv),
    Foreign("NhwcConv", nhwc_conv),
    Foreign("NhwcFusedConv", nhwc_conv),
    Foreign("NhwcMaxPool", nhwc_max_pool),
    Foreign("ConvTransposeWithDynamicPads", conv_transpose_dynamic_pads),
    Foreign("GridSample", grid_sample),
    Foreign("CropAndResize", crop_and_resize),
)

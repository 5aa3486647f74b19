"""Steps of random models: convolutions, pools and resizing."""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from whet.tests.random_models import MOST_ELEMENTS, Made, Network, Shape, Value


def conv(net: Network, x: Value) -> Made:
    if x.rank not in (3, 4):
        return None
    rank, channels = x.rank - 2, x.shape[1]
    groups = [g for g in (1, 1, 2, 3, 4, channels) if channels % g == 0]
    group = net.choice(groups)
    filters = (
        group * net.choice((1, 2, 3, 8, 17)) if group < channels else group * net.integer(1, 2)
    )
    window = _window(net, x, dilated=True)
    if window is None:
        return None
    kernel, spatial, attributes = window
    depth = channels // group
    weight = net.weights(filters, depth, *kernel, depth=depth * math.prod(kernel))
    bias = [net.weights(filters)] if net.likely(0.6) else []
    assert len(kernel) == rank
    return net.op(
        "Conv", x, weight, *bias, shape=(x.shape[0], filters, *spatial), group=group,
        kernel_shape=list(kernel), **attributes,
    )  # fmt: skip


def _window(
    net: Network, x: Value, *, dilated: bool
) -> tuple[Shape, Shape, dict[str, list[int]]] | None:
    rank = x.rank - 2
    kernel = tuple(net.choice((1, 2, 3, 3, 5)) for _ in range(rank))
    strides = [net.choice((1, 1, 2, 3)) for _ in range(rank)]
    dilations = [net.choice((1, 1, 1, 2)) if dilated else 1 for _ in range(rank)]
    pads = [net.integer(0, (k - 1) // 2 + int(dilated)) for k in (*kernel, *kernel)]
    if not dilated:
        pads = [min(p, k - 1) for p, k in zip(pads, (*kernel, *kernel), strict=True)]
    room = [
        x.shape[2 + k] + pads[k] + pads[rank + k] - ((kernel[k] - 1) * dilations[k] + 1)
        for k in range(rank)
    ]
    if min(room) < 0:
        return None
    spatial = tuple(r // s + 1 for r, s in zip(room, strides, strict=True))
    attributes = {"strides": strides, "pads": pads}
    if dilated:
        attributes["dilations"] = dilations
    return kernel, spatial, attributes


def conv_transpose(net: Network, x: Value) -> Made:
    if x.rank != 4 or math.prod(x.shape) > 2048:
        return None
    group = 1  # the reference is wrong for more
    filters, k, s = net.choice((1, 3, 8)), net.choice((1, 2, 3)), net.choice((1, 2))
    pad = net.integer(0, (k - 1) // 2)
    weight = net.weights(x.shape[1], filters, k, k, depth=x.shape[1] // group * k * k)
    spatial = tuple((e - 1) * s + k - 2 * pad for e in x.shape[2:])
    if min(spatial) < 1:
        return None
    return net.op(
        "ConvTranspose", x, weight, shape=(x.shape[0], filters * group, *spatial), group=group,
        kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4,
    )  # fmt: skip


def pool(net: Network, x: Value) -> Made:
    if x.rank not in (3, 4):
        return None
    window = _window(net, x, dilated=False)
    if window is None:
        return None
    kernel, spatial, attributes = window
    if len(set(attributes["pads"])) != 1:
        return None  # the reference mixes up others
    kind = net.choice(("MaxPool", "AveragePool")) if x.rank == 4 else "AveragePool"
    if kind == "AveragePool" and net.likely(0.5):
        attributes["count_include_pad"] = 1  # type: ignore[assignment]
    shape = (*x.shape[:2], *spatial)
    return net.op(kind, x, shape=shape, kernel_shape=list(kernel), **attributes)


def global_pool(net: Network, x: Value) -> Made:
    if x.rank not in (3, 4):
        return None
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
    kinds = ("GlobalAveragePool", "GlobalMaxPool") if x.rank == 4 else ("GlobalAveragePool",)
    return net.op(net.choice(kinds), x, shape=shape)  # the reference of GlobalMaxPool needs rank 4


def resize(net: Network, x: Value) -> Made:
    if x.rank != 4 or math.prod(x.shape) > MOST_ELEMENTS // 4:
        return None
    scales = net.name()
    net.constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), scales))
    shape = (*x.shape[:2], x.shape[2] * 2, x.shape[3] * 2)
    mode = net.choice(("nearest", "linear"))
    return net.op("Resize", x, "", scales, shape=shape, mode=mode)

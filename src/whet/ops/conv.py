"""Convolutions: Conv and ConvTranspose, for any number of spatial dimensions."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Const, Expr, Var, Within, guard
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Product, Steps, Tensor, axes_for
from whet.ops.build import binary
from whet.ops.node import Node, Op, constant
from whet.ops.operand import agree
from whet.ops.windows import Window, channels_last, window_of


def lower_conv(node: Node) -> list[Tensor]:
    """Lower ``Conv``: x [N, C, D...], w [M, C/group, K...], optional bias [M]."""
    x = node.input(0)
    shape, definition = convolution(node, x, node.input(1))
    bias = node.optional(2)
    if bias is not None:
        body = binary("add", definition.body, bias.at(definition.position[1]))
        definition = replace(definition, body=body)
    return [node.define(shape, x.dtype, definition, order=channels_last(x.rank))]


def convolution(node: Node, x: Tensor, w: Tensor) -> tuple[tuple[Poly, ...], Definition]:
    """Return the shape and the equation of a node's convolution, without bias."""
    if x.rank < 3 or w.rank != x.rank:
        raise node.error(f"needs x and w of one rank, 3 or more; got {x.rank} and {w.rank}")
    group = node.attribute("group", 1)
    channels, filters = x.shape[1], node.static(w.shape[0])
    per_group = node.static(w.shape[1])
    if channels.constant not in (None, per_group * group) or filters % group:
        raise node.error(f"group {group} does not fit x {list(x.shape)} and w {list(w.shape)}")
    node.agree(channels, as_poly(per_group * group))
    kernel = tuple(node.static(n) for n in w.shape[2:])
    window = window_of(node, kernel, x.shape[2:])
    spatial = tuple(window.outputs(k, n) for k, n in enumerate(x.shape[2:]))
    shape = (x.shape[0], as_poly(filters), *spatial)
    if per_group == 1 and group > 1:
        return shape, _depthwise(x, w, window, shape)
    return shape, _dense(x, w, window, shape, group)


def _dense(x: Tensor, w: Tensor, window: Window, shape: tuple[Poly, ...], group: int) -> Definition:
    """Return ``y[n, m, o] = sum over c, k of x[n, c, o * s + k * d - p] * w[m, c, k]``."""
    rank = len(window.kernel)
    per_group = shape[1] // group
    n, g = Axis("n", shape[0]), Axis("g", as_poly(group))
    m = Axis("m", per_group)
    places = tuple(Axis(f"o{k}", e) for k, e in enumerate(shape[2:]))
    taps = tuple(Axis(f"k{k}", as_poly(e)) for k, e in enumerate(window.kernel))
    c = Axis("c", w.shape[1])
    channel = var(g) * per_group + var(m) if group > 1 else var(m)
    source = var(g) * w.shape[1] + var(c) if group > 1 else var(c)
    indices = [window.position(k, var(places[k]), var(taps[k])) for k in range(rank)]
    bounds = tuple(Within(i, e) for i, e in zip(indices, x.shape[2:], strict=True))
    a = guard(bounds, x.at(var(n), source, *indices), Const(0, x.dtype))
    b = w.at(channel, var(c), *(var(t) for t in taps))
    rows = (n, *((g,) if group > 1 else ()), *places)
    body = Var(ACCUMULATOR, x.dtype)
    index = (var(n), channel, *(var(p) for p in places))
    return Definition((*rows, m), body, Product(a, b, rows, m, taps, c), index)


def _depthwise(x: Tensor, w: Tensor, window: Window, shape: tuple[Poly, ...]) -> Definition:
    """Return ``y[n, m, o] = sum over k of x[n, m // r, o * s + k * d - p] * w[m, k]``."""
    rank = len(window.kernel)
    axes = tuple(Axis(f"i{k}", e) for k, e in enumerate(shape))
    taps = tuple(Axis(f"k{k}", as_poly(e)) for k, e in enumerate(window.kernel))
    repeat = shape[1] // x.shape[1]
    indices = [window.position(k, var(axes[k + 2]), var(taps[k])) for k in range(rank)]
    bounds = tuple(Within(i, e) for i, e in zip(indices, x.shape[2:], strict=True))
    value = x.at(var(axes[0]), var(axes[1]) // repeat, *indices)
    a = guard(bounds, value, Const(0, x.dtype))
    b = _channels_last_weight(w, axes[1], taps)
    step = Step(ACCUMULATOR, "sum", taps, binary("mul", a, b), x.dtype)
    body = Var(ACCUMULATOR, x.dtype)
    return Definition(axes, body, Steps((step,)))


def _channels_last_weight(w: Tensor, channel: Axis, taps: tuple[Axis, ...]) -> Expr:
    """Return ``w[channel, 0, taps]``, from a transposed copy if the weight is constant."""
    places = tuple(var(t) for t in taps)
    if w.value is None:
        return w.at(var(channel), 0, *places)
    moved = np.ascontiguousarray(np.moveaxis(w.value[:, 0], 0, -1))
    return constant(f"{w.name}.channels_last", moved).at(*places, var(channel))


def lower_conv_transpose(node: Node) -> list[Tensor]:
    """Lower ``ConvTranspose``: x [N, C, D...], w [C, M/group, K...]; source: ONNX ConvTranspose.

    With ``o = s * q + r`` and the kernel zero-padded to ``s * J``, tap ``k = s * j + r`` reads
    ``x[q - j]``: for each of the ``s`` remainders a plain convolution with ``J`` taps.
    """
    x, w = node.input(0), node.input(1)
    if x.rank < 3 or w.rank != x.rank:
        raise node.error(f"x {list(x.shape)} and w {list(w.shape)} do not fit")
    agree(node, (x.shape[1],), (w.shape[0],), "channels of x for w")
    group = node.attribute("group", 1)
    if group < 1 or (w.shape[0].constant or group) % group:
        raise node.error(f"{w.shape[0]} channels do not split into {group} groups")
    kernel = tuple(node.static(n) for n in w.shape[2:])
    window = window_of(node, kernel, x.shape[2:])
    full = _transposed_full(node, window, group)
    before, shape = _transposed_shape(node, window, full.shape[1])

    def crop(*axes: Axis) -> Expr:
        places = [var(a) + p for a, p in zip(axes[2:], before, strict=True)]
        bounds = tuple(Within(p, e) for p, e in zip(places, full.shape[2:], strict=True))
        value = guard(bounds, full.at(var(axes[0]), var(axes[1]), *places), Const(0, x.dtype))
        bias = node.optional(2)
        return value if bias is None else binary("add", value, bias.at(var(axes[1])))

    return [node.pointwise(shape, x.dtype, crop)]


def _transposed_shape(
    node: Node, window: Window, filters: Poly
) -> tuple[tuple[Poly, ...], tuple[Poly, ...]]:
    """Return how much of the full result is cut off in front, and the output shape."""
    x = node.input(0)
    rank = len(window.kernel)
    extra = tuple(node.attribute("output_padding") or (0,) * rank)
    automatic = node.attribute("auto_pad", "NOTSET")
    wanted = node.attribute("output_shape")
    if wanted is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [e * s for e, s in zip(x.shape[2:], window.strides, strict=True)]
    before, lengths = [], []
    for k in range(rank):
        span = (x.shape[2 + k] - 1) * window.strides[k] + window.extent(k) + extra[k]
        if wanted is None:
            cut, length = window.before[k], span - window.before[k] - window.after[k]
        else:
            length = as_poly(wanted[k])
            total = max((span - length).constant or 0, 0)
            cut = as_poly(total // 2 if automatic == "SAME_UPPER" else total - total // 2)
        before.append(cut)
        lengths.append(length)
    return tuple(before), (x.shape[0], filters, *lengths)


def _transposed_full(node: Node, window: Window, group: int) -> Tensor:
    """Return the uncropped result, of ``s * (D + J - 1)`` elements along each spatial axis."""
    x, w = node.input(0), node.input(1)
    rank = len(window.kernel)
    counts = _taps_per_phase(window)
    weights = _phase_weights(node, w, window, group)
    filters = node.static(w.shape[1])
    n, g, m = Axis("n", x.shape[0]), Axis("g", as_poly(group)), Axis("m", as_poly(filters))
    depth = w.shape[0] // group
    c = Axis("c", depth)
    places = tuple(Axis(f"q{k}", x.shape[2 + k] + (counts[k] - 1)) for k in range(rank))
    phases = tuple(Axis(f"r{k}", as_poly(s)) for k, s in enumerate(window.strides))
    taps = tuple(Axis(f"j{k}", as_poly(j)) for k, j in enumerate(counts))
    indices = [var(places[k]) + var(taps[k]) - (counts[k] - 1) for k in range(rank)]
    bounds = tuple(Within(i, e) for i, e in zip(indices, x.shape[2:], strict=True))
    a = guard(bounds, x.at(var(n), var(g) * depth + var(c), *indices), Const(0, x.dtype))
    b = weights.at(var(g), *(var(r) for r in phases), *(var(t) for t in taps), var(c), var(m))
    index = [var(places[k]) * window.strides[k] + var(phases[k]) for k in range(rank)]
    rows = (n, g, *phases, *places)
    definition = Definition(
        (*rows, m),
        Var(ACCUMULATOR, x.dtype),
        Product(a, b, rows, m, taps, c),
        (var(n), var(g) * filters + var(m), *index),
    )
    lengths = (p.extent * s for p, s in zip(places, window.strides, strict=True))
    shape = (x.shape[0], as_poly(group * filters), *lengths)
    full = node.temporary("full", shape, x.dtype, definition)
    full.order = channels_last(x.rank)
    return full


def _taps_per_phase(window: Window) -> tuple[int, ...]:
    return tuple(-(-window.extent(k) // s) for k, s in enumerate(window.strides))


def _phase_weights(node: Node, w: Tensor, window: Window, group: int) -> Tensor:
    """Return weights as [group, phases..., taps..., C/group, M/group], taps reversed."""
    if w.value is not None:
        return constant(f"{w.name}.phases", _constant_phases(w.value, window, group))
    counts, channels = _taps_per_phase(window), w.shape[0] // group
    outer = (as_poly(n) for n in (group, *window.strides, *counts))
    shape = (*outer, channels, w.shape[1])
    axes = axes_for(shape)
    rank = len(window.kernel)
    index = [var(axes[0]) * channels + var(axes[-2]), var(axes[-1])]
    bounds: list[Within] = []
    for k, (count, stride) in enumerate(zip(counts, window.strides, strict=True)):
        phase, tap = var(axes[1 + k]), var(axes[1 + rank + k])
        place = (count - 1 - tap) * stride + phase
        index.append(place // window.dilations[k])
        bounds.append(Within(place % window.dilations[k], as_poly(1)))
        bounds.append(Within(index[-1], w.shape[2 + k]))
    body = guard(tuple(bounds), w.at(*index), Const(0, w.dtype))
    return node.temporary("phases", shape, w.dtype, Definition(axes, body))


def _constant_phases(w: np.ndarray, window: Window, group: int) -> np.ndarray:
    rank, counts = len(window.kernel), _taps_per_phase(window)
    lengths = tuple(j * s for j, s in zip(counts, window.strides, strict=True))
    spread = np.zeros((*w.shape[:2], *lengths), w.dtype)
    places = tuple(slice(0, window.extent(k), window.dilations[k]) for k in range(rank))
    spread[(slice(None), slice(None), *places)] = w
    split = spread.reshape(
        group,
        w.shape[0] // group,
        w.shape[1],
        *(n for p in zip(counts, window.strides, strict=True) for n in p),
    )
    taps = tuple(3 + 2 * k for k in range(rank))
    phases = tuple(4 + 2 * k for k in range(rank))
    flipped = np.flip(split, taps)
    return np.ascontiguousarray(flipped.transpose(0, *phases, *taps, 1, 2))


OPS: tuple[Op, ...] = (Op("Conv", lower_conv), Op("ConvTranspose", lower_conv_transpose))

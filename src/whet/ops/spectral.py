"""Spectra of signals and back: DFT and STFT."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import ONE, Axis, Poly, as_poly, at_least, product, var
from whet.kernel.expr import Const, Expr, Within, guard
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compute_type, const, select, unary
from whet.ops.fourier import PAIR, transformed
from whet.ops.late_shapes import axis_flags, index_number, sizes_around, sizes_from, total
from whet.ops.node import Node, Op, constant, known_values, normalise_axis
from whet.ops.operand import agree, attribute_flag, number
from whet.ops.views import reshaped


def lower_dft(node: Node) -> list[Tensor]:
    """Lower ``DFT``: the transform of a real or complex signal along an axis, or its inverse.

    One-sided, a forward transform gives the first half of the spectrum, and an inverse one takes
    that and gives a real signal.
    """
    place = node.optional(2)
    if place is not None and known_values(place) is None and node.late is not None:
        return _along_late_axis(node, place)
    x, wanted, given = node.input(0), node.sizes(1), node.ints(2)
    axis = normalise_axis(node, given[0] if given else -2, x.rank)
    if axis == x.rank - 1:
        raise node.error("the last axis holds real and imaginary parts")
    inverse, onesided = attribute_flag(node, "inverse"), attribute_flag(node, "onesided")
    if wanted:
        length = wanted[0]
    else:
        length = (x.shape[axis] - 1) * 2 if inverse and onesided else x.shape[axis]
    signal = _signal(node, x, axis, length)
    if inverse and onesided:
        signal = _mirrored(node, signal, length // 2 + 1)
    spectrum = transformed(node, signal, 1 if inverse else -1)
    bins = length // 2 + 1 if onesided and not inverse else length
    parts = ONE if inverse and onesided else PAIR
    shape = (*x.shape[:axis], bins, *x.shape[axis + 1 : -1], parts)
    axes = axes_for(shape)
    before, (k, *after, c) = map(var, axes[:axis]), map(var, axes[axis:])
    value: Expr = spectrum.at(*before, k, _flat(after, x.shape[axis + 1 : -1]), c)
    if inverse:
        value = binary("div", value, number(length, value.dtype))
    return [node.define(shape, x.dtype, Definition(axes, cast(value, x.dtype)))]


def _along_late_axis(node: Node, place: Tensor) -> list[Tensor]:
    """Transform along an axis whose number depends on data.

    The dimensions before and after it are joined, so that it is always the second one.
    """
    x = node.input(0)
    *flags, _ = axis_flags(node, place, x.rank)
    hits = total([select(f, const(1, "int64"), const(0, "int64")) for f in flags], "add", 0)
    *around, hit = sizes_from(node, "around", [*sizes_around(flags, x.shape[:-1]), hits])
    node.agree(hit, ONE)  # the last axis holds real and imaginary parts
    shape = (*around, x.shape[-1])
    node.agree(product(shape), x.size)
    second = constant(f"{node.name}.axis", np.array(1))
    inputs = (reshaped(node, x, shape), node.optional(1), second)
    (found,) = lower_dft(replace(node, inputs=inputs))
    dims = x.shape[:-1]
    if found.shape[1] != around[1]:
        bins = index_number(found.shape[1])
        sizes = [select(f, bins, index_number(e)) for f, e in zip(flags, dims, strict=True)]
        dims = sizes_from(node, "result", sizes)
        node.agree(product(dims), product(found.shape[:-1]))
    return [reshaped(node, found, (*dims, found.shape[-1]))]


def _flat(index: list[Poly], shape: tuple[Poly, ...]) -> Poly:
    total = as_poly(0)
    for place, extent in zip(index, shape, strict=True):
        total = total * extent + place
    return total


def _signal(node: Node, x: Tensor, axis: int, length: Poly) -> Tensor:
    """Return ``[..., n, m, c]``, cut off or with zeros behind, in the type of the arithmetic."""
    after = x.shape[axis + 1 : -1]
    shape = (*x.shape[:axis], length, product(after), x.shape[-1])
    axes = axes_for(shape)
    before, (n, flat, c) = map(var, axes[:axis]), map(var, axes[axis:])
    inner: list[Poly] = []
    for extent in reversed(after):
        inner.insert(0, flat % extent if len(inner) + 1 < len(after) else flat)
        flat = flat // extent
    dtype = compute_type(x.dtype)
    value = cast(x.at(*before, n, *inner, c), dtype)
    body = guard((Within(n, x.shape[axis]),), value, Const(0.0, dtype))
    return node.temporary("signal", shape, dtype, Definition(axes, body))


def _mirrored(node: Node, x: Tensor, known: Poly) -> Tensor:
    """Return a whole spectrum from its first half: the rest is ``X[N - k] = conj(X[k])``."""
    agree(node, x.shape[-1:], (PAIR,), "real and imaginary parts for a one-sided inverse")
    shape = (*x.shape[:-1], PAIR)
    axes = axes_for(shape)
    *outer, k, m, c = map(var, axes)
    mirrored = x.at(*outer, x.shape[-3] - k, m, c)
    body = guard((Within(c, ONE),), mirrored, unary("neg", mirrored))
    body = guard((Within(k - known, x.shape[-3] - known),), body, Const(0.0, x.dtype))
    body = guard((Within(k, known),), x.at(*outer, k, m, c), body)
    return node.temporary("whole", shape, x.dtype, Definition(axes, body))


def lower_stft(node: Node) -> list[Tensor]:
    """Lower ``STFT``: spectra of overlapping frames of a signal ``[batch, length, 1 or 2]``."""
    x, window = node.input(0), node.optional(2)
    step, lengths = node.sizes(1) or (), node.sizes(3)
    if x.rank != 3 or len(step) != 1 or step[0].constant == 0:
        raise node.error(f"signal {list(x.shape)} and frame_step {list(step)} do not fit")
    default = x.shape[1] if window is None else window.shape[0]
    length = lengths[0] if lengths else default
    frames = (x.shape[1] - length) // step[0] + 1
    if not at_least(x.shape[1] - length, 0) and frames.constant is not None:
        raise node.error(f"a frame of {length} does not fit into {x.shape[1]}")
    dtype = compute_type(x.dtype)
    axes = axes_for((x.shape[0], frames, length, ONE, x.shape[2]))
    b, f, n, _, c = map(var, axes)
    value = cast(x.at(b, f * step[0] + n, c), dtype)
    if window is not None:
        value = binary("mul", value, cast(window.at(n), dtype))
    shape = tuple(a.extent for a in axes)
    signal = node.temporary("frames", shape, dtype, Definition(axes, value))
    spectrum = transformed(node, signal, -1)
    bins = length // 2 + 1 if attribute_flag(node, "onesided", 1) else length

    def body(*at: Axis) -> Expr:
        b, f, k, c = map(var, at)
        return cast(spectrum.at(b, f, k, 0, c), x.dtype)

    return [node.pointwise((x.shape[0], frames, bins, PAIR), x.dtype, body)]


OPS: tuple[Op, ...] = (Op("DFT", lower_dft), Op("STFT", lower_stft))

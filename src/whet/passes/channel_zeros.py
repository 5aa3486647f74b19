"""Depthwise convolutions of bytes whose zero point is another one in each channel.

``sum (x - p_c)(w - q) = sum x (w - q) - p_c sum (w - q)`` within a channel ``c``: the second term
is a constant, if the image is padded with ``p_c``. ConvInteger pads with one number, so the image
is padded in front of it: ``Where(border, p, Pad(x))``, a copy of bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import constant, static_shape
from whet.graph.match import Miss
from whet.passes.quantised import Array, Linear8, Maker, typed


def has_channel_zeros(x: Linear8) -> bool:
    """Tell whether zero points differ."""
    return bool(np.any(x.zero != x.zero.flat[0]))


def zeros_obstacle(node: ir.Node, x: Linear8, w: Linear8) -> Miss | None:
    """Return why a convolution cannot take a zero point for each channel into account."""
    if constant(w.source) is None:
        return Miss(f"{w.source.name} is not constant")
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return Miss(f"{node.name} pads automatically")
    if any(_pads(node)) and static_shape(_image_of(x)) is None:
        return Miss(f"the border of {x.source.name} is not known")
    return None


def _image_of(x: Linear8) -> ir.Value:
    """Return a value of the image's height and width; the batch does not matter."""
    shape = x.source.shape
    dims = [1, *shape.dims[1:]] if shape is not None and len(shape) else []
    return ir.Value(name=x.source.name, shape=ir.Shape(dims) if dims else None)


def _pads(node: ir.Node) -> list[int]:
    attribute = node.attributes.get("pads")
    return [] if attribute is None else [*attribute.as_ints()]


def padded(node: ir.Node, x: Linear8, make: Maker) -> ir.Value:
    """Return the image with the zero point of each channel around it."""
    pads = _pads(node)
    if not any(pads):
        return x.source
    shape = static_shape(_image_of(x))
    assert shape is not None, "the image is known"
    rank, before, after = len(shape), pads[: len(pads) // 2], pads[len(pads) // 2 :]
    lengths = [n + a + b for n, a, b in zip(shape[2:], before, after, strict=True)]
    inside = np.zeros((1, 1, *shape[2:]), np.bool_)
    edges = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    border = np.pad(inside, edges, constant_values=True)
    amounts = make.constant(np.array([0, 0, *before, 0, 0, *after], np.int64), "pads")
    kind = (x.source.dtype or ir.DataType.UINT8).numpy()
    points = make.constant(x.zero.astype(kind).reshape(-1, *[1] * (rank - 2)), "zeros")
    name = x.source.name
    around = typed(
        x.source, make.names.fresh(f"{name}_padded"), x.source.dtype or ir.DataType.UINT8
    )
    batch = None if x.source.shape is None else x.source.shape[0]
    around.shape = ir.Shape([batch, shape[1], *lengths])
    make.node("Pad", [x.source, amounts], around)
    output = typed(around, make.names.fresh(f"{name}_around"), x.source.dtype or ir.DataType.UINT8)
    return make.node("Where", [make.constant(border, "border"), points, around], output)


def correction(x: Linear8, w: Linear8) -> Array:
    """Return what is added to the sums of each filter, int32."""
    weights = constant(w.source)
    assert weights is not None, "weights are constant"
    filters = weights.shape[0]
    points = np.repeat(x.zero, filters // x.zero.size)
    taps = weights.astype(np.int64).reshape(filters, -1)
    zeros = np.broadcast_to(w.zero, (filters,))
    found: Array = (-points * (taps - zeros[:, None]).sum(axis=1)).astype(np.int32)
    return found

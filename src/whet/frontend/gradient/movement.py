"""Derivatives of operators that move elements: the slope moves back."""

from __future__ import annotations

import numpy as np

from whet.frontend.gradient.rule import Back, Rule, Slopes


def _as_before(b: Back) -> Slopes:
    """Reshape, Flatten, Squeeze and Unsqueeze: the slope in the shape of the input."""
    return [b.op("Reshape", b.slope, b.t.shape(b.x()), allowzero=1)]


def _transpose(b: Back) -> Slopes:
    rank = b.t.rank(b.x())
    order = b.attribute("perm", tuple(reversed(range(rank))))
    return [b.t.transpose(b.slope, *(int(k) for k in np.argsort(order)))]


def _expand(b: Back) -> Slopes:
    return [b.onto(b.slope, b.x())]


def _concat(b: Back) -> Slopes:
    axis = b.attribute("axis", 0)
    lengths = [b.t.length(x, axis % b.t.rank(x)) for x in (b.x(k) for k in _all(b))]
    if len(lengths) == 1:
        return [b.slope]
    sizes = b.op("Concat", *lengths, axis=0)
    return b.t.ops(len(lengths), "Split", b.slope, sizes, axis=axis)


def _all(b: Back) -> range:
    return range(len(b.node.inputs))


def _split(b: Back) -> Slopes:
    parts = []
    for output, slope in zip(b.node.outputs, b.slopes, strict=True):
        zero = b.number(0.0)
        parts.append(slope or b.op("Expand", zero, b.t.shape(output)))
    return [b.op("Concat", *parts, axis=b.attribute("axis", 0))]


def _slice(b: Back) -> Slopes:
    """Add the slope at the places that were read, numbered by slicing their numbers likewise."""
    x = b.x()
    count = int(np.prod(b.static(x)))
    numbers = np.arange(count, dtype=np.int64).reshape(b.static(x))
    places = b.op("Slice", numbers, *(b.given(k) for k in range(1, len(b.node.inputs))))
    flat = np.array([-1], np.int64)
    zeros = np.zeros(count, b.t.dtype(x).numpy())
    found = b.op(
        "ScatterElements", zeros, b.op("Reshape", places, flat), b.op("Reshape", b.slope, flat),
        axis=0,
    )  # fmt: skip
    return [b.op("Reshape", found, b.t.shape(x), allowzero=1)]


def _gather(b: Back) -> Slopes:
    """Add the slope at the places that were read, with the axis in front."""
    x, indices = b.x(0), b.x(1)
    rank, ahead = b.t.rank(x), b.t.rank(indices)
    axis = b.attribute("axis", 0) % rank
    order = [*range(axis, axis + ahead), *range(axis), *range(axis + ahead, rank - 1 + ahead)]
    slope = b.t.transpose(b.slope, *order)
    front = [axis, *(k for k in range(rank) if k != axis)]
    zeros = b.op("Expand", b.number(0.0), b.t.shape(b.t.transpose(x, *front)))
    places = b.t.unsqueeze(indices, -1)
    found = b.op("ScatterND", zeros, places, slope, reduction="add")
    return [b.t.transpose(found, *(int(k) for k in np.argsort(front))), None]


def _gather_elements(b: Back) -> Slopes:
    x = b.x()
    zeros = b.op("Expand", b.number(0.0), b.t.shape(x))
    axis = b.attribute("axis", 0)
    return [b.op("ScatterElements", zeros, b.x(1), b.slope, axis=axis, reduction="add"), None]


def _pad(b: Back) -> Slopes:
    if b.attribute("mode", "constant") != "constant" or b.given(3) is not None:
        raise b.refuse("of this mode, or with axes")
    return [b.op("Pad", b.slope, b.op("Neg", b.x(1)))]


MOVEMENT: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _as_before),
    "Transpose": _transpose,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
}

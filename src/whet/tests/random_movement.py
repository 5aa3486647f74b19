"""Steps of random models: elements that move, are joined, cut, repeated and looked up."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from whet.tests.random_models import Made, Network, Shape, Value
from whet.tests.random_pointwise import unary


def concat(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    axis = net.axis(x)
    alike = [
        v for v in net.values
        if v.rank == x.rank and all(v.shape[k] == x.shape[k] for k in range(x.rank) if k != axis)
    ]  # fmt: skip
    parts = [net.choice(alike) for _ in range(net.integer(1, 3))]
    if net.likely(0.3):
        parts.append(unary(net, x))
    joined = [x, *parts] if net.likely(0.5) else [*parts, x]
    shape = list(x.shape)
    shape[axis] = sum(v.shape[axis] for v in joined)
    return net.op("Concat", *joined, shape=tuple(shape), axis=axis)


def reshape(net: Network, x: Value) -> Made:
    """Regroup the elements: factors of the size in random groups."""
    size, head = math.prod(x.shape[net.free :]), x.shape[: net.free]
    factors = [p for p in (2, 2, 2, 2, 2, 3, 3, 5, 7, 13, 17, 11) if size > 1]
    left, parts = size, [1, 1, 1]
    for p in factors:
        if left % p == 0:
            left //= p
            parts[net.integer(0, 2)] *= p
    parts[net.integer(0, 2)] *= left
    shape = tuple(parts[: net.integer(3, 3)])
    if net.likely(0.4):
        shape = (shape[0], shape[1] * shape[2])
    target = net.ints(*([0] if net.batch else []), *shape)
    return net.op("Reshape", x, target, shape=(*head, *shape))


def flatten(net: Network, x: Value) -> Made:
    axis = 1 if net.batch else net.integer(0, x.rank)
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return net.op("Flatten", x, shape=shape, axis=axis)


def squeeze(net: Network, x: Value) -> Made:
    ones = [k for k, e in enumerate(x.shape) if e == 1 and k >= net.free]
    if not ones:
        axis = net.integer(net.free, x.rank)
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        return net.op("Unsqueeze", x, net.ints(axis), shape=shape) if x.rank < 5 else None
    shape = tuple(e for k, e in enumerate(x.shape) if k not in ones)
    return net.op("Squeeze", x, net.ints(*ones), shape=shape)


def transpose(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    order = [*range(net.free), *net.rng.permutation(np.arange(net.free, x.rank)).tolist()]
    shape = tuple(x.shape[k] for k in order)
    return net.op("Transpose", x, shape=shape, perm=order)


def slice_(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    axis = net.axis(x)
    extent, step = x.shape[axis], net.choice((1, 1, 2, 3, -1, -2))
    low = net.integer(0, extent - 1)
    high = net.integer(low + 1, extent)
    start, end = (low, high) if step > 0 else (high - 1, low - 1 if low else -extent - 1)
    count = len(range(low, high, step)) if step > 0 else len(range(high - 1, low - 1, step))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    inputs = (net.ints(start), net.ints(end), net.ints(axis), net.ints(step))
    return net.op("Slice", x, *inputs, shape=shape)


def split(net: Network, x: Value) -> Made:
    wide = [k for k in range(net.free, x.rank) if x.shape[k] > 1]
    if not wide:
        return None
    axis = net.choice(wide)
    cuts = sorted({net.integer(1, x.shape[axis] - 1) for _ in range(2)})
    sizes = [b - a for a, b in pairwise((0, *cuts, x.shape[axis]))]
    shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in sizes]
    return net.ops("Split", x, net.ints(*sizes), shapes=shapes, axis=axis)


def pad(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    mode = net.choice(("constant", "constant", "edge", "reflect", "wrap"))
    before, after = [0] * x.rank, [0] * x.rank
    for k in range(net.free, x.rank):
        most = min(2, x.shape[k] - 1) if mode in ("reflect", "wrap") else 2
        before[k], after[k] = net.integer(0, most), net.integer(0, most)
    shape = tuple(a + e + b for a, e, b in zip(before, x.shape, after, strict=True))
    value = [net.constant(np.array(0.5))] if mode == "constant" and net.likely(0.5) else []
    return net.op("Pad", x, net.ints(*before, *after), *value, shape=shape, mode=mode)


def expand(net: Network, x: Value) -> Made:
    target = [
        net.choice((2, 3, 5)) if e == 1 and k >= net.free else e for k, e in enumerate(x.shape)
    ]
    if net.batch:
        target[0] = 1
    return net.op(
        "Expand",
        x,
        net.ints(*target),
        shape=(x.shape[0], *target[1:]) if net.batch else tuple(target),
    )


def tile(net: Network, x: Value) -> Made:
    repeats = [1 if k < net.free else net.choice((1, 1, 2, 3)) for k in range(x.rank)]
    shape = tuple(e * r for e, r in zip(x.shape, repeats, strict=True))
    return net.op("Tile", x, net.ints(*repeats), shape=shape)


def gather(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    axis = net.axis(x)
    wanted: Shape = net.choice(((), (1,), (3,), (2, 2)))
    extent = x.shape[axis]
    indices = net.constant(net.rng.integers(-extent, extent, wanted).astype(np.int64))
    shape = (*x.shape[:axis], *wanted, *x.shape[axis + 1 :])
    return net.op("Gather", x, indices, shape=shape, axis=axis) if len(shape) <= 5 else None


def data_gather(net: Network, x: Value) -> Made:
    """Append a Gather at the places of greatest elements."""
    if x.rank <= net.free + 1 or net.batch:
        return None
    axis = net.axis(x)
    reduced = (*x.shape[:axis], *x.shape[axis + 1 :])
    places = net.op("ArgMax", x, shape=reduced, axis=axis, keepdims=0)
    shape = (*x.shape[:axis], *reduced, *x.shape[axis + 1 :])
    return net.op("Gather", x, places, shape=shape, axis=axis) if len(shape) <= 5 else None


def depth_to_space(net: Network, x: Value) -> Made:
    if x.rank != 4 or x.shape[1] % 4:
        return None
    n, c, h, w = x.shape
    mode = net.choice(("DCR", "CRD"))
    return net.op("DepthToSpace", x, shape=(n, c // 4, h * 2, w * 2), blocksize=2, mode=mode)

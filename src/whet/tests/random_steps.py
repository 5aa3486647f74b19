"""The steps of random models: each appends a few nodes, or nothing where they do not fit."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from onnx import numpy_helper

from whet.tests.random_models import MOST_ELEMENTS, Network, Shape, Step, Value

Made = Value | list[Value] | None


# -- pointwise -------------------------------------------------------------------------------------

UNARY = (
    "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Erf", "Gelu", "HardSwish", "Softplus", "Sin", "Cos",
    "LeakyRelu", "Elu", "HardSigmoid", "Softsign", "Mish", "Identity",
)  # fmt: skip


def unary(net: Network, x: Value) -> Made:
    return net.op(net.choice(UNARY), x, shape=x.shape)


def clip(net: Network, x: Value) -> Made:
    low, high = net.constant(np.array(-0.75)), net.constant(np.array(1.25))
    return net.op("Clip", x, low, high if net.likely(0.7) else "", shape=x.shape)


def exponential(net: Network, x: Value) -> Made:
    bounded = net.op("Tanh", x, shape=x.shape)
    return net.op("Exp", bounded, shape=x.shape)


def _repeated(net: Network, x: Value) -> Shape:
    """Return a shape that broadcasts to that of ``x``."""
    kept = tuple(e if net.likely(0.6) else 1 for e in x.shape)
    if net.batch:
        kept = (1, *kept[1:])
    return kept[net.integer(0, max(x.rank - 1, 0)) :] if net.likely(0.5) else kept


def with_constant(net: Network, x: Value) -> Made:
    shape = _repeated(net, x)
    other = net.weights(*shape)
    pair = (x, other) if net.likely(0.5) else (other, x)
    return net.op(net.choice(("Add", "Sub", "Mul", "Max", "Min")), *pair, shape=x.shape)


def divided(net: Network, x: Value) -> Made:
    values = net.rng.uniform(0.5, 2.0, _repeated(net, x)).round(2)
    return net.op("Div", x, net.constant(values), shape=x.shape)


def _fits(small: Shape, large: Shape) -> bool:
    pairs = zip(small[::-1], large[::-1], strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in pairs)


def with_value(net: Network, x: Value) -> Made:
    others = [v for v in net.values if _fits(v.shape, x.shape)]
    if net.batch:
        others = [v for v in others if v.rank == x.rank]
    y = net.choice(others)
    kind = net.choice(("Add", "Sub", "Mul", "Max", "Min"))
    return net.op(kind, *((x, y) if net.likely(0.5) else (y, x)), shape=x.shape)


def where(net: Network, x: Value) -> Made:
    condition = net.op("Greater", x, net.weights(*_repeated(net, x)), shape=x.shape)
    other = net.op("Sin", x, shape=x.shape)
    return net.op("Where", condition, other, net.weights(1), shape=x.shape)


def mask(net: Network, x: Value) -> Made:
    condition = net.op("LessOrEqual", x, net.weights(*_repeated(net, x)), shape=x.shape)
    number = net.op("Cast", condition, shape=x.shape, to=net.kind)
    return net.op("Mul", number, x, shape=x.shape)


# -- products --------------------------------------------------------------------------------------


def linear(net: Network, x: Value) -> Made:
    if x.rank < 2:
        return None
    depth, cols = x.shape[-1], net.choice((1, 3, 8, 16, 17, 40))
    product = net.op(
        "MatMul", x, net.weights(depth, cols, depth=depth), shape=(*x.shape[:-1], cols)
    )
    if net.likely(0.5):
        product = net.op("Add", product, net.weights(cols), shape=product.shape)
    return product


def gemm(net: Network, x: Value) -> Made:
    if x.rank != 2:
        return None
    flip_a, flip_b = net.likely(0.3) and not net.batch, net.likely(0.5)
    rows, depth = x.shape[::-1] if flip_a else x.shape
    cols = net.choice((1, 5, 16, 33))
    weight = net.weights(*((cols, depth) if flip_b else (depth, cols)), depth=depth)
    bias = [net.weights(*net.choice(((cols,), (1, cols), (1,))))] if net.likely(0.7) else []
    return net.op(
        "Gemm", x, weight, *bias, shape=(rows, cols), transA=int(flip_a), transB=int(flip_b),
        alpha=net.choice((1.0, 0.5)), beta=net.choice((1.0, 0.25)),
    )  # fmt: skip


def left_product(net: Network, x: Value) -> Made:
    if x.rank < 2 or (net.batch and x.rank < 3):
        return None
    rows, depth = net.choice((1, 4, 9)), x.shape[-2]
    weight = net.weights(rows, depth, depth=depth)
    return net.op("MatMul", weight, x, shape=(*x.shape[:-2], rows, x.shape[-1]))


def _swapped(net: Network, x: Value) -> Value:
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    shape = tuple(x.shape[k] for k in order)
    return net.op("Transpose", x, shape=shape, perm=order)


def _scaled(net: Network, x: Value, factor: float) -> Value:
    return net.op("Mul", x, net.constant(np.array(factor)), shape=x.shape)


def gram(net: Network, x: Value) -> Made:
    if x.rank < 2 or (net.batch and x.rank < 3):
        return None
    shape = (*x.shape[:-1], x.shape[-2])
    product = net.op("MatMul", x, _swapped(net, x), shape=shape)
    return _scaled(net, product, 1 / max(x.shape[-1], 1))


def attention(net: Network, x: Value) -> Made:
    """Append softmax(q k' / sqrt(d) [+ bias]) v for one head or several."""
    if x.rank != 3:
        return None
    n, length, _ = x.shape
    heads, width = net.choice((1, 2, 3)), net.choice((4, 7, 16))
    q, k, v = (_head(net, x, heads, width) for _ in range(3))
    swapped = _swapped(net, k)
    scores = net.op("MatMul", q, swapped, shape=(n, heads, length, length))
    scores = _scaled(net, scores, 1 / math.sqrt(width))
    if net.likely(0.5):
        scores = net.op("Add", scores, net.weights(length, length), shape=scores.shape)
    soft = net.op("Softmax", scores, shape=scores.shape, axis=-1)
    mixed = net.op("MatMul", soft, v, shape=(n, heads, length, width))
    joined = net.op("Transpose", mixed, shape=(n, length, heads, width), perm=[0, 2, 1, 3])
    target = net.ints(0 if net.batch else n, length, heads * width)
    return net.op("Reshape", joined, target, shape=(n, length, heads * width))


def _head(net: Network, x: Value, heads: int, width: int) -> Value:
    n, length, depth = x.shape
    weight = net.weights(depth, heads * width, depth=depth)
    flat = net.op("MatMul", x, weight, shape=(n, length, heads * width))
    target = net.ints(0 if net.batch else n, length, heads, width)
    split = net.op("Reshape", flat, target, shape=(n, length, heads, width))
    return net.op("Transpose", split, shape=(n, heads, length, width), perm=[0, 2, 1, 3])


# -- windows ---------------------------------------------------------------------------------------


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


# -- reductions ------------------------------------------------------------------------------------


def reduce(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    count = net.integer(1, x.rank - net.free)
    axes = sorted(net.rng.permutation(np.arange(net.free, x.rank))[:count].tolist())
    keep = net.likely(0.5)
    shape = tuple(1 if k in axes else e for k, e in enumerate(x.shape) if keep or k not in axes)
    kind = net.choice(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp"))
    return net.op(kind, x, net.ints(*axes), shape=shape, keepdims=int(keep))


def softmax(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    kind = net.choice(("Softmax", "Softmax", "LogSoftmax"))
    return net.op(kind, x, shape=x.shape, axis=net.axis(x))


def layer_norm(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    axis = net.axis(x)
    kept = x.shape[axis:]
    bias = [net.weights(*kept)] if net.likely(0.5) else []
    scale = net.weights(*kept)
    return net.op("LayerNormalization", x, scale, *bias, shape=x.shape, axis=axis, epsilon=0.1)


def channel_norm(net: Network, x: Value) -> Made:
    if x.rank < 3:
        return None
    c = x.shape[1]
    scale, bias, mean = (net.weights(c) for _ in range(3))
    if net.likely(0.5):
        return net.op("InstanceNormalization", x, scale, bias, shape=x.shape, epsilon=0.1)
    variance = net.constant(net.rng.uniform(0.5, 2.0, c).round(2))
    return net.op("BatchNormalization", x, scale, bias, mean, variance, shape=x.shape)


def cumulative(net: Network, x: Value) -> Made:
    if x.rank <= net.free:
        return None
    axis = net.axis(x)
    total = net.op(
        "CumSum", x, net.constant(np.array(axis)), shape=x.shape, reverse=net.integer(0, 1),
        exclusive=net.integer(0, 1),
    )  # fmt: skip
    return _scaled(net, total, 1 / x.shape[axis])


# -- movement --------------------------------------------------------------------------------------


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


STEPS: tuple[Step, ...] = (
    unary, unary, clip, exponential, with_constant, with_constant, divided, with_value, with_value,
    where, mask, linear, linear, gemm, left_product, gram, attention, conv, conv, conv, conv,
    conv_transpose, pool, pool, global_pool, resize, reduce, reduce, softmax, layer_norm,
    channel_norm, cumulative, concat, concat, reshape, reshape, flatten, squeeze, transpose,
    transpose, slice_, slice_, split, pad, expand, tile, gather, data_gather, depth_to_space,
)  # fmt: skip

COMPARING = frozenset({where, mask, data_gather})

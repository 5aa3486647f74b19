"""Steps of random models: matrix products and what is made of them."""

from __future__ import annotations

import math

import numpy as np

from whet.tests.random_models import Made, Network, Value


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


def scaled(net: Network, x: Value, factor: float) -> Value:
    """Append a product with a number, which keeps sums of many elements small."""
    return net.op("Mul", x, net.constant(np.array(factor)), shape=x.shape)


def gram(net: Network, x: Value) -> Made:
    if x.rank < 2 or (net.batch and x.rank < 3):
        return None
    shape = (*x.shape[:-1], x.shape[-2])
    product = net.op("MatMul", x, _swapped(net, x), shape=shape)
    return scaled(net, product, 1 / max(x.shape[-1], 1))


def attention(net: Network, x: Value) -> Made:
    """Append softmax(q k' / sqrt(d) [+ bias]) v for one head or several."""
    if x.rank != 3:
        return None
    n, length, _ = x.shape
    heads, width = net.choice((1, 2, 3)), net.choice((4, 7, 16))
    q, k, v = (_head(net, x, heads, width) for _ in range(3))
    swapped = _swapped(net, k)
    scores = net.op("MatMul", q, swapped, shape=(n, heads, length, length))
    scores = scaled(net, scores, 1 / math.sqrt(width))
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

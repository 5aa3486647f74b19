"""Steps of random models: reductions, norms and running totals."""

from __future__ import annotations

import numpy as np

from whet.tests.random_models import Made, Network, Value
from whet.tests.random_products import scaled


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
    return scaled(net, total, 1 / x.shape[axis])

"""Steps of random models: functions of elements, and pairs of values that broadcast."""

from __future__ import annotations

import numpy as np

from whet.tests.random_models import Made, Network, Shape, Value

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

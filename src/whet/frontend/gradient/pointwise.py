"""Derivatives of operators that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from whet.frontend.gradient.rule import Back, Rule, Slopes


def _times(factor: Callable[[Back], ir.Value]) -> Rule:
    """Return the rule of an operator of one input: the slope times a factor."""
    return lambda b: [b.mul(b.slope, factor(b))]


def _zero(b: Back) -> Slopes:
    return [None for _ in b.node.inputs]


def _identity(b: Back) -> Slopes:
    return [b.slope]


def _add(b: Back) -> Slopes:
    return [b.onto(b.slope, x) for x in (b.x(0), b.x(1))]


def _sub(b: Back) -> Slopes:
    return [b.onto(b.slope, b.x(0)), b.onto(b.op("Neg", b.slope), b.x(1))]


def _mul(b: Back) -> Slopes:
    one, other = b.x(0), b.x(1)
    return [b.onto(b.mul(b.slope, other), one), b.onto(b.mul(b.slope, one), other)]


def _div(b: Back) -> Slopes:
    over = b.op("Div", b.slope, b.x(1))
    return [b.onto(over, b.x(0)), b.onto(b.op("Neg", b.mul(over, b.y)), b.x(1))]


def _pow(b: Back) -> Slopes:
    """``x^p``: ``p x^(p-1)`` and ``x^p log x``, which is 0 where x is 0."""
    x, power = b.x(0), b.t.cast(b.x(1), b.t.dtype(b.x(0)))
    below = b.op("Pow", x, b.op("Sub", power, b.number(1.0)))
    first = b.onto(b.mul(b.slope, b.mul(power, below)), x)
    if b.t.dtype(b.x(1)) != b.t.dtype(x) or b.x(1).is_initializer():
        return [first, None]
    empty = b.op("Equal", x, b.number(0.0))
    log = b.op("Log", b.op("Where", empty, b.number(1.0), x))
    return [first, b.onto(b.mul(b.slope, b.mul(b.y, log)), b.x(1))]


def _sum(b: Back) -> Slopes:
    return [b.onto(b.slope, b.x(k)) for k in range(len(b.node.inputs))]


def _mean(b: Back) -> Slopes:
    part = b.op("Div", b.slope, b.number(float(len(b.node.inputs))))
    return [b.onto(part, b.x(k)) for k in range(len(b.node.inputs))]


def _extreme(b: Back) -> Slopes:
    """``Max`` and ``Min``: equal ones share the slope."""
    hits = [b.t.cast(b.op("Equal", x, b.y), b.t.dtype(b.y)) for x in map(b.x, _all(b))]
    count = hits[0] if len(hits) == 1 else b.op("Sum", *hits)
    part = b.op("Div", b.slope, count)
    return [b.onto(b.mul(part, hit), b.x(k)) for k, hit in enumerate(hits)]


def _all(b: Back) -> range:
    return range(len(b.node.inputs))


def _where(b: Back) -> Slopes:
    condition, zero = b.x(0), b.number(0.0)
    one = b.op("Where", condition, b.slope, zero)
    other = b.op("Where", condition, zero, b.slope)
    return [None, b.onto(one, b.x(1)), b.onto(other, b.x(2))]


def _clip(b: Back) -> Slopes:
    """The slope where x is between the bounds; those themselves have none here."""
    slope = b.slope
    for position, beyond in ((1, "Less"), (2, "Greater")):
        bound = b.given(position)
        if bound is not None:
            slope = b.zero_where(b.op(beyond, b.x(), bound), slope)
    return [slope]


def _cast(b: Back) -> Slopes:
    return [b.t.cast(b.slope, b.t.dtype(b.x()))]


def _prelu(b: Back) -> Slopes:
    x, steep = b.x(0), b.x(1)
    below = b.op("Less", x, b.number(0.0))
    first = b.op("Where", below, b.mul(b.slope, steep), b.slope)
    second = b.op("Where", below, b.mul(b.slope, x), b.number(0.0))
    return [b.onto(first, x), b.onto(second, steep)]


# -- factors ---------------------------------------------------------------------------------------


def _square(b: Back, value: ir.Value) -> ir.Value:
    return b.mul(value, value)


def _one_minus(b: Back, value: ir.Value) -> ir.Value:
    return b.op("Sub", b.number(1.0), value)


def _one_plus(b: Back, value: ir.Value) -> ir.Value:
    return b.op("Add", value, b.number(1.0))


def _above(b: Back, bound: float = 0.0) -> ir.Value:
    return b.op("Greater", b.x(), b.number(bound))


def _two_sided(b: Back, above: float, below: ir.Value) -> ir.Value:
    return b.op("Where", _above(b), b.number(above), below)


def _exponential(b: Back, scale: float, inner: float = 1.0) -> ir.Value:
    """Return ``scale * exp(x * inner)`` where x is not positive, so that nothing overflows."""
    low = b.op("Min", b.mul(b.x(), b.number(inner)), b.number(0.0))
    return b.mul(b.op("Exp", low), b.number(scale))


def _elu(b: Back) -> ir.Value:
    return _two_sided(b, 1.0, _exponential(b, b.attribute("alpha", 1.0)))


def _celu(b: Back) -> ir.Value:
    return _two_sided(b, 1.0, _exponential(b, 1.0, 1.0 / b.attribute("alpha", 1.0)))


def _selu(b: Back) -> ir.Value:
    gamma = b.attribute("gamma", 1.05070102214813232421875)
    alpha = b.attribute("alpha", 1.67326319217681884765625)
    return _two_sided(b, gamma, _exponential(b, gamma * alpha))


def _leaky(b: Back) -> ir.Value:
    steep = b.number(b.attribute("alpha", 0.01))
    return b.op("Where", b.op("Less", b.x(), b.number(0.0)), steep, b.number(1.0))


def _relu(b: Back) -> ir.Value:
    return b.t.cast(_above(b), b.t.dtype(b.y))


def _thresholded(b: Back) -> ir.Value:
    return b.t.cast(_above(b, b.attribute("alpha", 1.0)), b.t.dtype(b.y))


def _hard_sigmoid(b: Back) -> ir.Value:
    inside = b.op("And", b.op("Greater", b.y, b.number(0.0)), b.op("Less", b.y, b.number(1.0)))
    return b.op("Where", inside, b.number(b.attribute("alpha", 0.2)), b.number(0.0))


def _hard_swish(b: Back) -> ir.Value:
    """``x/3 + 1/2`` between -3 and 3."""
    line = b.op("Add", b.op("Div", b.x(), b.number(3.0)), b.number(0.5))
    low = b.op("Less", b.x(), b.number(-3.0))
    return b.zero_where(low, b.op("Where", _above(b, 3.0), b.number(1.0), line))


def _softsign(b: Back) -> ir.Value:
    return b.op("Reciprocal", _square(b, _one_plus(b, b.op("Abs", b.x()))))


def _swish(b: Back) -> ir.Value:
    alpha = b.number(b.attribute("alpha", 1.0))
    s = b.op("Sigmoid", b.mul(b.x(), alpha))
    return b.mul(s, _one_plus(b, b.mul(b.mul(b.x(), alpha), _one_minus(b, s))))


def _mish(b: Back) -> ir.Value:
    """``t + x (1 - t²) sigmoid(x)`` with ``t = tanh(softplus(x))``."""
    t = b.op("Tanh", b.op("Softplus", b.x()))
    rest = b.mul(_one_minus(b, _square(b, t)), b.op("Sigmoid", b.x()))
    return b.op("Add", t, b.mul(b.x(), rest))


def _gelu(b: Back) -> ir.Value:
    """``Φ(x) + x φ(x)``, or the derivative of the form with tanh."""
    x = b.x()
    half = b.number(0.5)
    if b.attribute("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        cubic = b.mul(_square(b, x), b.number(0.044715))
        t = b.op("Tanh", b.mul(b.mul(x, b.number(c)), _one_plus(b, cubic)))
        inner = _one_plus(b, b.mul(cubic, b.number(3.0)))
        slope = b.mul(b.mul(_one_minus(b, _square(b, t)), x), b.mul(inner, b.number(c)))
        return b.mul(half, b.op("Add", _one_plus(b, t), slope))
    cdf = b.mul(half, _one_plus(b, b.op("Erf", b.mul(x, b.number(math.sqrt(0.5))))))
    density = b.op("Exp", b.mul(_square(b, x), b.number(-0.5)))
    scaled = b.mul(density, b.number(1 / math.sqrt(2 * math.pi)))
    return b.op("Add", cdf, b.mul(x, scaled))


def _erf(b: Back) -> ir.Value:
    return b.mul(b.op("Exp", b.op("Neg", _square(b, b.x()))), b.number(2 / math.sqrt(math.pi)))


def _root_of(sign: float, one: float) -> Callable[[Back], ir.Value]:
    """Return the factor ``1 / sqrt(one + sign x²)``."""

    def factor(b: Back) -> ir.Value:
        inner = b.op("Add", b.mul(_square(b, b.x()), b.number(sign)), b.number(one))
        return b.op("Reciprocal", b.op("Sqrt", inner))

    return factor


def _negated(factor: Callable[[Back], ir.Value]) -> Callable[[Back], ir.Value]:
    return lambda b: b.op("Neg", factor(b))


FACTORS: dict[str, Callable[[Back], ir.Value]] = {
    "Exp": lambda b: b.y,
    "Log": lambda b: b.op("Reciprocal", b.x()),
    "Sqrt": lambda b: b.op("Div", b.number(0.5), b.y),
    "Reciprocal": lambda b: b.op("Neg", _square(b, b.y)),
    "Abs": lambda b: b.op("Sign", b.x()),
    "Sin": lambda b: b.op("Cos", b.x()),
    "Cos": lambda b: b.op("Neg", b.op("Sin", b.x())),
    "Tan": lambda b: _one_plus(b, _square(b, b.y)),
    "Sinh": lambda b: b.op("Cosh", b.x()),
    "Cosh": lambda b: b.op("Sinh", b.x()),
    "Tanh": lambda b: _one_minus(b, _square(b, b.y)),
    "Asin": _root_of(-1.0, 1.0),
    "Acos": _negated(_root_of(-1.0, 1.0)),
    "Atan": lambda b: b.op("Reciprocal", _one_plus(b, _square(b, b.x()))),
    "Asinh": _root_of(1.0, 1.0),
    "Acosh": _root_of(1.0, -1.0),
    "Atanh": lambda b: b.op("Reciprocal", _one_minus(b, _square(b, b.x()))),
    "Sigmoid": lambda b: b.mul(b.y, _one_minus(b, b.y)),
    "Softplus": lambda b: b.op("Sigmoid", b.x()),
    "Erf": _erf,
    "Relu": _relu,
    "LeakyRelu": _leaky,
    "ThresholdedRelu": _thresholded,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Softsign": _softsign,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Mish": _mish,
    "Gelu": _gelu,
}
"""What the slope is multiplied by, for operators of one input."""

POINTWISE: dict[str, Rule] = {
    **{name: _times(factor) for name, factor in FACTORS.items()},
    **dict.fromkeys(("Sign", "Floor", "Ceil", "Round"), _zero),
    "Identity": _identity,
    "Neg": lambda b: [b.op("Neg", b.slope)],
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Sum": _sum,
    "Mean": _mean,
    "Max": _extreme,
    "Min": _extreme,
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "PRelu": _prelu,
}

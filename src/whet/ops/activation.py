"""Activation functions: element by element, with parameters in attributes."""

from __future__ import annotations

from collections.abc import Callable

from whet.errors import UnsupportedError
from whet.kernel.expr import Expr
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, compare, const, select, unary
from whet.ops.node import Node, Op
from whet.ops.operand import attribute_float
from whet.ops.pointwise import mapped

Parameters = dict[str, float]
Activation = Callable[[Expr, Parameters], Expr]


def relu(x: Expr) -> Expr:
    """Return ``max(x, 0)``."""
    return binary("max", x, 0)


def leaky(x: Expr, slope: Expr | float) -> Expr:
    """Return ``x`` where it is not negative, else ``slope * x``."""
    return select(compare("lt", x, 0), binary("mul", x, slope), x)


def _elu(x: Expr, p: Parameters) -> Expr:
    return select(compare("lt", x, 0), binary("mul", unary("expm1", x), p["alpha"]), x)


def _selu(x: Expr, p: Parameters) -> Expr:
    return binary("mul", _elu(x, p), p["gamma"])


def _celu(x: Expr, p: Parameters) -> Expr:
    negative = binary("mul", unary("expm1", binary("div", x, p["alpha"])), p["alpha"])
    return select(compare("lt", x, 0), negative, x)


def _hard_sigmoid(x: Expr, p: Parameters) -> Expr:
    line = binary("add", binary("mul", x, p["alpha"]), p["beta"])
    return binary("max", binary("min", line, 1.0), 0.0)


def _hard_swish(x: Expr, _: Parameters) -> Expr:
    return binary("mul", x, _hard_sigmoid(x, {"alpha": 1 / 6, "beta": 0.5}))


def _swish(x: Expr, p: Parameters) -> Expr:
    if p["alpha"] == 1:
        return unary("silu", x)
    return binary("mul", x, unary("sigmoid", binary("mul", x, p["alpha"])))


def _mish(x: Expr, _: Parameters) -> Expr:
    return binary("mul", x, unary("tanh", unary("softplus", x)))


def _softsign(x: Expr, _: Parameters) -> Expr:
    return binary("div", x, binary("add", unary("abs", x), 1.0))


def _thresholded(x: Expr, p: Parameters) -> Expr:
    return select(compare("gt", x, p["alpha"]), x, const(0, x.dtype))


def _shrink(x: Expr, p: Parameters) -> Expr:
    lifted = binary("add", x, p["bias"])
    lowered = binary("sub", x, p["bias"])
    inner = select(compare("gt", x, p["lambd"]), lowered, const(0, x.dtype))
    return select(compare("lt", x, -p["lambd"]), lifted, inner)


def _activation(body: Activation, **defaults: float) -> Callable[[Node], list[Tensor]]:
    def lower(node: Node) -> list[Tensor]:
        parameters = {name: attribute_float(node, name, value) for name, value in defaults.items()}
        return mapped(node, lambda x: body(x, parameters))

    return lower


def _gelu(node: Node) -> list[Tensor]:
    form = node.attribute("approximate", "none")
    if form not in ("none", "tanh"):
        raise UnsupportedError(f"Gelu with approximate={form!r}", where=node.name)
    function = "gelu_tanh" if form == "tanh" else "gelu"
    return mapped(node, lambda x: unary(function, x))


def _swiglu(node: Node) -> list[Tensor]:
    parameters = {"alpha": attribute_float(node, "alpha", 1.0)}
    return mapped(node, lambda a, b: binary("mul", _swish(a, parameters), b))


OPS: tuple[Op, ...] = (
    Op("Relu", _activation(lambda x, _: relu(x))),
    Op("LeakyRelu", _activation(lambda x, p: leaky(x, p["alpha"]), alpha=0.01)),
    Op("PRelu", lambda node: mapped(node, leaky)),
    Op("Elu", _activation(_elu, alpha=1.0)),
    Op(
        "Selu", _activation(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
    ),
    Op("Celu", _activation(_celu, alpha=1.0)),
    Op("ThresholdedRelu", _activation(_thresholded, alpha=1.0)),
    Op("HardSigmoid", _activation(_hard_sigmoid, alpha=0.2, beta=0.5)),
    Op("HardSwish", _activation(_hard_swish)),
    Op("Mish", _activation(_mish)),
    Op("Softplus", _activation(lambda x, _: unary("softplus", x))),
    Op("Softsign", _activation(_softsign)),
    Op("Gelu", _gelu),
    Op("Swish", _activation(_swish, alpha=1.0)),
    Op("SwiGLU", _swiglu),
    Op("Shrink", _activation(_shrink, lambd=0.5, bias=0.0)),
)

"""Activation functions of recurrent operators: names, and parameters taken from two lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

import msgspec

from whet.errors import UnsupportedError
from whet.kernel.expr import Expr
from whet.ops.activation import leaky, relu
from whet.ops.build import binary, compare, const, select, unary
from whet.ops.node import Node
from whet.words import counted

Activation = Callable[[Expr], Expr]
Body = Callable[[Expr, float, float], Expr]


class _Form(msgspec.Struct, frozen=True):
    """A function of ``x``, alpha and beta, and the defaults of those that it takes."""

    body: Body
    alpha: float | None = None
    beta: float | None = None


def _affine(x: Expr, alpha: float, beta: float) -> Expr:
    return binary("add", binary("mul", x, alpha), beta)


def _elu(x: Expr, alpha: float, _: float) -> Expr:
    grown = unary("expm1", x)
    return select(compare("lt", x, 0), binary("mul", grown, alpha), x)


def _thresholded(x: Expr, alpha: float, _: float) -> Expr:
    return select(compare("ge", x, alpha), x, const(0, x.dtype))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return binary("max", binary("min", _affine(x, alpha, beta), 1.0), 0.0)


def _softsign(x: Expr, _: float, __: float) -> Expr:
    return binary("div", x, binary("add", unary("abs", x), 1.0))


def _scaled_tanh(x: Expr, alpha: float, beta: float) -> Expr:
    return binary("mul", unary("tanh", binary("mul", x, beta)), alpha)


_FORMS: MappingProxyType[str, _Form] = MappingProxyType(
    {
        "sigmoid": _Form(lambda x, _, __: unary("sigmoid", x)),
        "tanh": _Form(lambda x, _, __: unary("tanh", x)),
        "relu": _Form(lambda x, _, __: relu(x)),
        "affine": _Form(_affine, 1.0, 0.0),
        "leakyrelu": _Form(lambda x, alpha, _: leaky(x, alpha), 0.01),
        "thresholdedrelu": _Form(_thresholded, 1.0),
        "scaledtanh": _Form(_scaled_tanh, 1.0, 1.0),
        "hardsigmoid": _Form(_hard_sigmoid, 0.2, 0.5),
        "elu": _Form(_elu, 1.0),
        "softsign": _Form(_softsign),
        "softplus": _Form(lambda x, _, __: unary("softplus", x)),
    }
)


def activations_of(
    node: Node, defaults: tuple[str, ...], directions: int
) -> list[tuple[Activation, ...]]:
    """Return the activation functions of every direction.

    Alpha and beta values are consumed in order by the functions that take them.

    Args:
        node: LSTM, GRU or RNN.
        defaults: names of the functions of one direction where the node names none.
        directions: 1 or 2.

    Raises:
        UnsupportedError: a function has an unknown name.
        ShapeError: there are too few names.
    """
    given = [_text(name) for name in node.attribute("activations") or ()]
    wanted = len(defaults) * directions
    names = given or list(defaults) * directions
    if len(names) < wanted:
        raise node.error(f"needs {counted(wanted, 'activation')}, got {len(names)}")
    alphas = iter(node.attribute("activation_alpha") or ())
    betas = iter(node.attribute("activation_beta") or ())
    found = [_activation(node, name, alphas, betas) for name in names[:wanted]]
    count = len(defaults)
    return [tuple(found[d * count : (d + 1) * count]) for d in range(directions)]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _activation(
    node: Node, name: str, alphas: Iterator[float], betas: Iterator[float]
) -> Activation:
    form = _FORMS.get(name.lower())
    if form is None:
        raise UnsupportedError(f"{node.op} with activation {name!r}", where=node.name)
    alpha = 0.0 if form.alpha is None else float(next(alphas, form.alpha))
    beta = 0.0 if form.beta is None else float(next(betas, form.beta))
    return lambda x: form.body(x, alpha, beta)

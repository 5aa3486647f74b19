"""Optimiser steps of ``ai.onnx.preview.training``: Adagrad, Adam and Momentum."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.dtypes import DTYPES
from whet.graph.opset import TRAINING_DOMAIN
from whet.kernel.expr import Expr
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, compare, const, select, unary
from whet.ops.node import Lower, Node, Op
from whet.ops.operand import attribute_float, operand

LEADING = 2
"""Inputs before the tensors: the learning rate and how many steps there were."""


class Moment(msgspec.Struct, frozen=True):
    """What an optimiser sees of one element, in the type of the tensors.

    Attributes:
        node: the node, for its attributes.
        rate: learning rate.
        count: number of steps before this one.
        x: the weight.
        gradient: the gradient, its norm's share included.
        states: what the optimiser remembers.
    """

    node: Node
    rate: Expr
    count: Expr
    x: Expr
    gradient: Expr
    states: tuple[Expr, ...]

    def number(self, name: str, default: float) -> float:
        """Return an attribute."""
        return attribute_float(self.node, name, default)


Update = Callable[[Moment], tuple[Expr, ...]]


def _times(x: Expr, factor: float) -> Expr:
    return binary("mul", x, factor)


def _adagrad(m: Moment) -> tuple[Expr, ...]:
    slower = binary("add", _times(m.count, m.number("decay_factor", 0.0)), 1.0)
    rate = binary("div", m.rate, slower)
    total = binary("add", m.states[0], binary("mul", m.gradient, m.gradient))
    size = binary("add", unary("sqrt", total), m.number("epsilon", 1e-6))
    step = binary("div", binary("mul", rate, m.gradient), size)
    return binary("sub", m.x, step), total


def _adam(m: Moment) -> tuple[Expr, ...]:
    alpha, beta = m.number("alpha", 0.9), m.number("beta", 0.999)
    mean = binary("add", _times(m.states[0], alpha), _times(m.gradient, 1 - alpha))
    square = binary("mul", m.gradient, m.gradient)
    spread = binary("add", _times(m.states[1], beta), _times(square, 1 - beta))
    size = binary("add", unary("sqrt", spread), m.number("epsilon", 1e-6))

    def remaining(base: float) -> Expr:
        one = const(1.0, m.x.dtype)
        return binary("sub", one, binary("pow", const(base, m.x.dtype), m.count))

    unbiased = binary("div", unary("sqrt", remaining(beta)), remaining(alpha))
    later = compare("gt", m.count, 0.0)
    rate = select(later, binary("mul", m.rate, unbiased), m.rate)
    moved = binary("sub", m.x, binary("div", binary("mul", rate, mean), size))
    return _times(moved, 1 - m.number("norm_coefficient_post", 0.0)), mean, spread


def _momentum(m: Moment) -> tuple[Expr, ...]:
    alpha, beta = m.number("alpha", 0.0), m.number("beta", 0.0)
    mode = m.node.attribute("mode")
    if mode not in ("standard", "nesterov"):
        raise m.node.error(f"mode is {mode!r}", hint="standard or nesterov")
    share = select(compare("gt", m.count, 0.0), const(beta, m.x.dtype), const(1.0, m.x.dtype))
    speed = binary("add", _times(m.states[0], alpha), binary("mul", share, m.gradient))
    ahead = binary("add", m.gradient, _times(speed, alpha)) if mode == "nesterov" else speed
    return binary("sub", m.x, binary("mul", m.rate, ahead)), speed


def _optimiser(update: Update, states: int) -> Lower:
    """Return the lowering of an optimiser that keeps some states for each weight."""

    def lower(node: Node) -> list[Tensor]:
        rate, count = node.input(0), node.input(1)
        groups = states + 2
        tensors = [node.input(k) for k in range(LEADING, len(node.inputs))]
        each, rest = divmod(len(tensors), groups)
        if rest or not each:
            raise node.error(f"{len(tensors)} tensors are not {groups} for each weight")
        results: dict[int, Tensor] = {}
        for k in range(each):
            own = tensors[k::each]
            for part in range(states + 1):
                place = part * each + k
                results[place] = _result(node, update, (rate, count, *own), part, place)
        return [results[k] for k in sorted(results)]

    return lower


def _result(
    node: Node, update: Update, given: tuple[Tensor, ...], part: int, output: int
) -> Tensor:
    """Return one new weight or state: part ``part`` of an update."""
    rate, count, x, *others = given
    if not DTYPES[x.dtype].is_float or any(t.shape != x.shape for t in others):
        raise node.error("weights, gradients and states are floats of one shape")

    def body(*axes: object) -> Expr:
        at = [operand(t, axes) for t in (x, *others)]  # type: ignore[arg-type]
        norm = attribute_float(node, "norm_coefficient", 0.0)
        gradient = binary("add", _times(at[0], norm), at[1])
        first, steps = (cast(operand(t, ()), x.dtype) for t in (rate, count))
        moment = Moment(node, first, steps, at[0], gradient, tuple(at[2:]))
        return update(moment)[part]

    return node.pointwise(x.shape, x.dtype, body, output=output)


OPS: tuple[Op, ...] = (
    Op("Adagrad", _optimiser(_adagrad, 1), TRAINING_DOMAIN),
    Op("Adam", _optimiser(_adam, 2), TRAINING_DOMAIN),
    Op("Momentum", _optimiser(_momentum, 1), TRAINING_DOMAIN),
)

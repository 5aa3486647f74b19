"""Batch normalisation, with stored statistics or, while training, with those of the batch."""

from __future__ import annotations

import numpy as np

from whet.index import Axis, Poly, product, var
from whet.kernel.expr import Call, Expr, Var
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compute_type, unary
from whet.ops.node import Node, Op, constant
from whet.ops.normalise import per_channel
from whet.ops.operand import agree, attribute_flag, attribute_float, number


def lower_batch_norm(node: Node) -> list[Tensor]:
    """Lower ``BatchNormalization``: ``(x - mean) / sqrt(var + eps) * scale + bias``."""
    for position in range(1, 5):
        agree(node, node.input(position).shape, node.input(0).shape[1:2], "a value a channel")
    epsilon = attribute_float(node, "epsilon", 1e-5)
    if attribute_flag(node, "training_mode"):
        return _training(node, epsilon)
    x, given = node.input(0), [node.input(k) for k in range(1, 5)]
    axes, dtype = axes_for(x.shape), compute_type(x.dtype)
    if all(t.value is not None for t in given):
        factor, shift = (per_channel(t, axes) for t in _folded(node, given, epsilon, dtype))
    else:
        factor, shift = _affine(axes, given, epsilon, dtype)
    return [_applied(node, axes, factor, shift)]


def _affine(
    axes: tuple[Axis, ...], given: list[Tensor], epsilon: float, dtype: str
) -> tuple[Expr, Expr]:
    """Return ``k = scale / sqrt(var + eps)`` and ``c = bias - mean * k`` of ``x * k + c``."""
    scale, bias, mean, variance = (cast(per_channel(t, axes), dtype) for t in given)
    factor = binary("div", scale, unary("sqrt", binary("add", variance, epsilon)))
    return factor, binary("sub", bias, binary("mul", mean, factor))


def _folded(node: Node, given: list[Tensor], epsilon: float, dtype: str) -> tuple[Tensor, Tensor]:
    """Return factor and shift of constant statistics, computed in double precision."""
    scale, bias, mean, variance = (np.asarray(t.value).astype(np.float64) for t in given)
    factor = scale / np.sqrt(variance + epsilon)
    shift = bias - mean * factor
    return (
        constant(f"{node.name}.factor", factor.astype(dtype)),
        constant(f"{node.name}.shift", shift.astype(dtype)),
    )


def _applied(node: Node, axes: tuple[Axis, ...], factor: Expr, shift: Expr) -> Tensor:
    x, dtype = node.input(0), factor.dtype
    value = cast(x.at(*map(var, axes)), dtype)
    body = cast(Call("fma", (value, factor, shift), dtype), x.dtype)
    return node.define(x.shape, x.dtype, Definition(axes, body))


# -- training --------------------------------------------------------------------------------------


def _training(node: Node, epsilon: float) -> list[Tensor]:
    """Normalise with the batch's own statistics, and move the stored ones towards them."""
    x = node.input(0)
    momentum = attribute_float(node, "momentum", 0.9)
    dtype = compute_type(x.dtype)
    mean, variance = _statistics(node, x, dtype)
    scale, bias = node.input(1), node.input(2)
    axes = axes_for(x.shape)
    factor, shift = _affine(axes, [scale, bias, mean, variance], epsilon, dtype)
    result = [_applied(node, axes, factor, shift)]
    for output, (stored, current) in enumerate(((3, mean), (4, variance)), start=1):
        result.append(_moved(node, node.input(stored), current, momentum, output))
    return result


def _statistics(node: Node, x: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Return mean and variance of every channel, the variance in two passes."""
    channel = Axis("c", x.shape[1])
    along = tuple(Axis(f"r{k}", e) for k, e in enumerate(x.shape) if k != 1)
    index: list[Poly] = [var(a) for a in along]
    index.insert(1, var(channel))
    value = cast(x.at(*index), dtype)
    count = number(product(a.extent for a in along), dtype)
    average = binary("div", Var("sum", dtype), count)
    away = binary("sub", value, average)
    total = Step("sum", "sum", along, value, dtype)
    squares = Step("squares", "sum", along, binary("mul", away, away), dtype)
    shape = (x.shape[1],)
    spread = binary("div", Var("squares", dtype), count)
    return (
        node.temporary("mean", shape, dtype, Definition((channel,), average, Steps((total,)))),
        node.temporary(
            "variance", shape, dtype, Definition((channel,), spread, Steps((total, squares)))
        ),
    )


def _moved(node: Node, stored: Tensor, current: Tensor, momentum: float, output: int) -> Tensor:
    """Return ``stored * momentum + current * (1 - momentum)``."""

    def body(channel: Axis) -> Expr:
        old = cast(stored.at(var(channel)), current.dtype)
        new = binary("mul", current.at(var(channel)), 1.0 - momentum)
        return cast(binary("add", binary("mul", old, momentum), new), stored.dtype)

    return node.pointwise(stored.shape, stored.dtype, body, output=output)


OPS: tuple[Op, ...] = (Op("BatchNormalization", lower_batch_norm),)

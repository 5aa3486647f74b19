"""Losses of classifiers: negative log likelihood, and cross entropy on top of it."""

from __future__ import annotations

from whet.index import var
from whet.kernel.expr import Expr, Var, index_of
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.node import Node, Op, elements
from whet.ops.normalise import log_softmax
from whet.ops.operand import number


def lower_log_likelihood(node: Node) -> list[Tensor]:
    """Lower ``NegativeLogLikelihoodLoss``: scores ``[n, c, d...]``, targets ``[n, d...]``.

    ``loss = -w[t] * x[n, t, d]``, and 0 where the target is to be ignored; their mean is weighted.
    """
    x, target, weight = node.input(0), node.input(1), node.optional(2)
    if weight is not None and weight.rank != 1:
        raise node.error(f"weights have rank {weight.rank}, not 1")
    if x.rank < 2 or target.rank != x.rank - 1:
        raise node.error(f"scores {list(x.shape)} and targets {list(target.shape)} do not fit")
    dtype, axes = compute_type(x.dtype), axes_for(target.shape)
    wanted = cast(target.at(*map(var, axes)), "int64")
    ignore = node.attribute("ignore_index")
    ignored = None if ignore is None else compare("eq", wanted, int(ignore))
    safe = wanted if ignored is None else select(ignored, const(0, "int64"), wanted)
    place = index_of(safe, 0, x.shape[1])
    factor: Expr = const(1.0, dtype) if weight is None else cast(weight.at(place), dtype)
    if ignored is not None:
        factor = select(ignored, const(0.0, dtype), factor)
    here = (var(axes[0]), place, *map(var, axes[1:]))
    loss = binary("mul", unary("neg", cast(x.at(*here), dtype)), factor)
    if ignored is not None:
        loss = select(ignored, const(0.0, dtype), loss)
    reduction = node.attribute("reduction", "mean")
    if reduction == "none":
        return [node.define(target.shape, x.dtype, Definition(axes, cast(loss, x.dtype)))]
    total = Step("total", "sum", axes, loss, dtype)
    steps = [total]
    body: Expr = Var("total", dtype)
    if reduction == "mean":
        divisor: Expr = number(elements(target.shape), dtype)
        if weight is not None or ignored is not None:
            steps.append(Step("weight", "sum", axes, factor, dtype))
            divisor = Var("weight", dtype)
        body = binary("div", body, divisor)
    return [node.define((), x.dtype, Definition((), cast(body, x.dtype), Steps(tuple(steps))))]


def lower_cross_entropy(node: Node) -> list[Tensor]:
    """Lower ``SoftmaxCrossEntropyLoss``: the likelihood loss of the logarithm of a softmax."""
    logarithms = log_softmax(node.step("log_prob", node.input(0), axis=1))[0]
    inputs = (logarithms, node.input(1), node.optional(2))
    (loss,) = lower_log_likelihood(node.step("loss", *inputs, **node.attributes))
    return [loss, logarithms]


OPS: tuple[Op, ...] = (
    Op("NegativeLogLikelihoodLoss", lower_log_likelihood),
    Op("SoftmaxCrossEntropyLoss", lower_cross_entropy),
)

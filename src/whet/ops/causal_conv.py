"""Causal depthwise convolution whose last inputs are kept as the state of the next call."""

from __future__ import annotations

from whet.index import as_poly, var
from whet.kernel.expr import Within, guard
from whet.kernel.tensor import Tensor
from whet.ops.build import cast, compute_type, const, unary
from whet.ops.conv import lower_conv
from whet.ops.movement import joined
from whet.ops.node import Node, Op
from whet.ops.operand import agree


def lower_causal_conv(node: Node) -> list[Tensor]:
    """Lower ``CausalConvWithState``: x ``[n, c, l]``, w ``[c, 1, k]``, state ``[n, c, k - 1]``."""
    x, w, bias, past = node.input(0), node.input(1), node.optional(2), node.optional(3)
    if x.rank != 3 or w.rank != 3:
        raise node.error(f"needs x and w of rank 3, got {x.rank} and {w.rank}")
    channels, length = w.shape[0].constant, w.shape[2].constant
    if channels is None or not length:
        raise node.error("needs weights of static shape")
    earlier = length - 1
    attributes = {"group": channels}
    if past is None or earlier == 0:
        step = node.step("conv", x, w, bias, **attributes, pads=(earlier, 0))
    else:
        wanted = (x.shape[0], x.shape[1], as_poly(earlier))
        agree(node, past.shape, wanted, "the state of earlier inputs")
        x = joined(node.step("padded"), [past, x], 2)
        step = node.step("conv", x, w, bias, **attributes)
    (result,) = lower_conv(step)
    activation = node.attribute("activation", "none")
    if activation in ("silu", "swish"):
        result = _silu(node, result)
    elif activation != "none":
        raise node.error(f"activation is {activation!r}", hint="silu, swish or none")
    return [result, _state(node, x, earlier)]


def _silu(node: Node, x: Tensor) -> Tensor:
    dtype = compute_type(x.dtype)
    return node.pointwise(
        x.shape,
        x.dtype,
        lambda *axes: cast(unary("silu", cast(x.at(*map(var, axes)), dtype)), x.dtype),
    )


def _state(node: Node, x: Tensor, count: int) -> Tensor:
    """Return the last inputs, with zeros in front of a shorter sequence."""
    shape = (x.shape[0], x.shape[1], x.shape[2] * 0 + count)
    start = x.shape[2] - count
    return node.pointwise(
        shape,
        x.dtype,
        lambda n, c, i: guard(
            (Within(var(i) + start, x.shape[2]),),
            x.at(var(n), var(c), var(i) + start),
            const(0, x.dtype),
        ),
        output=1,
    )


OPS: tuple[Op, ...] = (Op("CausalConvWithState", lower_causal_conv),)

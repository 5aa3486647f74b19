"""Constant factors leave the operands of products."""

from __future__ import annotations

from msgspec.structs import replace

from whet.kernel.expr import Call, Const, Expr, Load, Var, rewrite_leaves
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Product, Tensor
from whet.lower.readers import merge_origins


def pull_scales(tensor: Tensor) -> None:
    """Take constant factors out of a product: ``(c x) w = c (x w)``, so that operands are views."""
    definition = tensor.definition
    assert definition is not None
    anchor = definition.anchor
    if not isinstance(anchor, Product):
        return
    factor = 1.0
    operands: dict[str, Expr] = {}
    for name, load in (("a", anchor.a), ("b", anchor.b)):
        found = _scaled_view(load) if isinstance(load, Load) else None
        if isinstance(load, Load) and found is not None:
            operands[name], scale = found
            factor *= scale
            merge_origins(load.source, tensor)
    if not operands:
        return
    total = Var(ACCUMULATOR, tensor.dtype)
    scaled_total = Call("mul", (total, Const(factor, tensor.dtype)), tensor.dtype)
    body = rewrite_leaves(definition.body, lambda e: scaled_total if e == total else e)
    scaled = replace(anchor, a=operands.get("a", anchor.a), b=operands.get("b", anchor.b))
    tensor.definition = replace(definition, body=body, anchor=scaled)


def _scaled_view(load: Load) -> tuple[Expr, float] | None:
    """Take ``view * constant`` apart, for floats."""
    inner = load.source.definition
    if (
        inner is None
        or inner.anchor is not None
        or inner.index
        or not load.dtype.startswith("float")
    ):
        return None
    body = inner.body
    if (
        not isinstance(body, Call)
        or body.op not in ("mul", "div")
        or not isinstance(body.args[1], Const)
    ):
        return None
    view, scale = body.args[0], float(body.args[1].value)
    if not isinstance(view, Load) or scale == 0.0:
        return None
    moved = view.substitute(dict(zip(inner.axes, load.index, strict=True)))
    return moved, scale if body.op == "mul" else 1.0 / scale

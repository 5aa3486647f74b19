"""Recognising attention on 8-bit integers: both products in integers, codes of a softmax between.

What a product of integers needs beside the sum of products is part of the equations already: sums
of keys and of queries are read by the score, that of a row's codes becomes the kernel's own.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.index import Atom, Axis, IndexLike, var
from whet.kernel.attention_schedule import MOST_INTEGER_KEYS
from whet.kernel.expr import Call, Const, Expr, Load, Var, rewrite_leaves, walk
from whet.kernel.integer_attention import MASS, QUAD_WORDS, SHARE, IntegerAttention
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor
from whet.lower.attention import (
    Single,
    become_attention,
    is_static,
    product_read,
    softmax_steps,
    source_at,
)
from whet.lower.contractions import operand_of
from whet.ops.build import cast
from whet.ops.normalise import softmax_body, softmax_raised, softmax_unless_empty

Readers = Callable[[Tensor], int]
"""How many tensors read a tensor."""


class _Softmax(msgspec.Struct, frozen=True):
    """A softmax whose elements are rounded to codes.

    Attributes:
        score: what it is taken of, at ``rows`` and ``key``.
        rows: its other axes.
        key: the axis that it runs along.
        share: the code of an element, ``Var("share")``.
        zero_empty: whether rows whose scores are all minus infinity give 0.
    """

    score: Expr
    rows: tuple[Axis, ...]
    key: Axis
    share: Expr
    zero_empty: bool


def fuse_integer_attention(tensor: Tensor, single: Single, readers: Readers) -> bool:
    """Turn a product with codes of a softmax of a product into one; returns whether it was one."""
    definition = tensor.definition
    outer = None if definition is None else definition.anchor
    if definition is None or not isinstance(outer, Product) or outer.taps:
        return False
    if outer.a.dtype != "uint8" or not is_static(outer.depth, outer.col):
        return False
    soft = source_at(outer.a, (*outer.rows, outer.depth), lambda t: readers(t) <= 2)
    softmax = None if soft is None else _softmax(soft)
    if soft is None or softmax is None or (outer.depth.extent.constant or 0) > MOST_INTEGER_KEYS:
        return False
    body = _with_mass(definition.body, outer, single)
    scored = _scored(soft, softmax, single)
    if scored is None or readers(soft) != (1 if body is definition.body else 2):
        return False
    scores, score = scored
    attend = _attend(outer, scores, softmax, score)
    if attend is not None:
        whole = Definition(definition.axes, body, attend, definition.index)
        become_attention(tensor, whole, scores, soft)
    return attend is not None


def _with_mass(body: Expr, outer: Product, single: Single) -> Expr:
    """Return an epilogue that reads the sum of a row's codes as ``Var("mass")``."""

    def rewrite(e: Expr) -> Expr:
        return Var(MASS, "int32") if isinstance(e, Load) and _is_mass(e, outer, single) else e

    found = any(isinstance(e, Load) and _is_mass(e, outer, single) for e in walk(body))
    return rewrite_leaves(body, rewrite) if found else body


def _is_mass(load: Load, outer: Product, single: Single) -> bool:
    inner = load.source.definition
    if inner is None or not isinstance(inner.anchor, Steps) or not single(load.source):
        return False
    (step, *more) = inner.anchor.steps
    if more or step.op != "sum" or len(step.axes) != 1 or inner.body != Var(step.name, step.dtype):
        return False
    here: dict[Atom, IndexLike] = dict(zip(inner.axes, load.index, strict=True))
    here[step.axes[0]] = var(outer.depth)
    return step.body.substitute(here) == cast(outer.a, "int32")


def _softmax(soft: Tensor) -> _Softmax | None:
    """Take a softmax apart whose elements are rounded to codes of uint8."""
    definition = soft.definition
    steps = softmax_steps(definition)
    if definition is None or steps is None or soft.dtype != "uint8":
        return None
    top, total = steps
    rows, key, met = definition.axes[:-1], definition.axes[-1], top.axes[0]
    here = top.body.substitute({met: var(key)})
    highest, whole = Var(top.name, here.dtype), Var(total.name, here.dtype)
    raised = total.body.substitute({met: var(key)}) == softmax_raised(here, highest)
    if not raised or here.dtype != "float32":
        return None
    empty = softmax_unless_empty(here, highest, whole)
    plain = softmax_body(here, highest, whole)
    share = _replaced(_replaced(definition.body, empty), plain)
    if any(not isinstance(e, Call | Const) and e != _SHARE for e in walk(share)):
        return None
    return _Softmax(here, rows, key, share, zero_empty=empty in walk(definition.body))


_SHARE = Var(SHARE, "float32")


def _replaced(expr: Expr, part: Expr) -> Expr:
    """Return an expression that reads a probability where ``part`` computes one."""
    return _SHARE if expr == part else expr.map(lambda e: _replaced(e, part))


def _scored(soft: Tensor, softmax: _Softmax, single: Single) -> tuple[Tensor, Expr] | None:
    """Return the product that a softmax reads, and the score as an expression of its sum."""
    definition = soft.definition
    assert definition is not None
    found = product_read(definition, softmax.score, (softmax.rows, softmax.key), single)
    return None if found is None else found[:2]


def _attend(outer: Product, scores: Tensor, softmax: _Softmax, score: Expr) -> Attend | None:
    """Return the anchor of both products, if a kernel can read all operands as bytes."""
    inner = scores.definition.anchor if scores.definition is not None else None
    if not isinstance(inner, Product) or not is_static(inner.depth, inner.col):
        return None
    q, k, v = _unsigned(inner.a), _signed(inner.b), _signed(outer.b)
    if q is None or k is None or v is None or inner.depth.extent % QUAD_WORDS != 0:
        return None
    depth = Axis("d", inner.depth.extent)
    back: dict[Atom, IndexLike] = {
        **{a: var(r) for a, r in zip(inner.rows, outer.rows, strict=True)},
        inner.col: var(outer.depth),
        inner.depth: var(depth),
    }
    forth: dict[Atom, IndexLike] = {
        **{a: var(r) for a, r in zip(softmax.rows, outer.rows, strict=True)},
        softmax.key: var(outer.depth),
    }
    return Attend(
        q=q[0].substitute(back),
        k=k[0].substitute(back),
        v=v[0],
        score=score.substitute(forth),
        rows=outer.rows,
        key=outer.depth,
        depth=depth,
        col=outer.col,
        zero_empty=softmax.zero_empty,
        integers=IntegerAttention(softmax.share, (q[1], k[1], v[1])),
    )


def _unsigned(operand: Expr) -> tuple[Load, bool] | None:
    """Return what an unsigned operand reads, and whether its highest bit is flipped."""
    found = operand_of(operand)
    if operand.dtype != "uint8" or found is None or found.conditions:
        return None
    return found.load, found.flips


def _signed(operand: Expr) -> tuple[Load, bool] | None:
    """Return what a signed operand reads, and whether its highest bit is flipped."""
    if operand.dtype != "int8":
        return None
    if isinstance(operand, Load):
        return operand, False
    inner = operand.args[0] if isinstance(operand, Call) and operand.op == "bitcast" else None
    if not isinstance(inner, Call) or inner.op != "xor" or inner.args[1] != Const(128, "uint8"):
        return None
    return (inner.args[0], True) if isinstance(inner.args[0], Load) else None

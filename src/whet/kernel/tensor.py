"""Tensors as equations: each is an input, a constant, or defined by expressions over its axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.index import Axis, Poly, as_poly, product, var
from whet.kernel.blocks import BlockSum, QuantizedRows
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import Expr, Load, walk
from whet.kernel.filter import Kept
from whet.kernel.integer_attention import IntegerAttention
from whet.kernel.paged import PagedAttend
from whet.kernel.recurrence import Recur
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.sort import Sorted
from whet.kernel.spec import Dot, Step

Rewrite = Callable[[Expr], Expr]


class Steps(msgspec.Struct, frozen=True):
    """Reductions that must finish before an element's body can be evaluated."""

    steps: tuple[Step, ...]

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [step.body for step in self.steps]

    def rewritten(self, rewrite: Rewrite) -> Steps:
        """Return the reductions with every expression rewritten."""
        return Steps(tuple(replace(s, body=rewrite(s.body)) for s in self.steps))


class Product(msgspec.Struct, frozen=True):
    """``acc = sum over taps and depth of a * b * gate``, read in the body as ``Var("acc")``.

    Attributes:
        a: operand that does not depend on ``col``; a load, perhaps guarded with zero.
        b: operand that does not depend on the last of ``rows``.
        rows: output axes of ``a``, outermost first; some may also index ``b`` (batch, group).
        col: output axis of ``b``.
        taps: outer reduction axes, such as kernel rows and columns.
        depth: innermost reduction axis, such as input channels.
        dot: which depth values share a lane, once operands lie so. Of 8-bit integers ``a`` is
            then unsigned and ``b`` signed, and the sum a 32-bit integer.
        merged: how many groups of the model are one here; of as many channels one is not zero.
        gate: what each depth value is multiplied by, a load that depends on ``depth`` and perhaps
            on the first of ``rows``; ``None`` for nothing.
    """

    a: Expr
    b: Expr
    rows: tuple[Axis, ...]
    col: Axis
    taps: tuple[Axis, ...]
    depth: Axis
    dot: Dot | None = None
    merged: int = 1
    gate: Expr | None = None

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.a, self.b] if self.gate is None else [self.a, self.b, self.gate]

    def rewritten(self, rewrite: Rewrite) -> Product:
        """Return the product with every expression rewritten."""
        gate = None if self.gate is None else rewrite(self.gate)
        return replace(self, a=rewrite(self.a), b=rewrite(self.b), gate=gate)


class Attend(msgspec.Struct, frozen=True):
    """``acc = sum over key of softmax over key (score) * v``; the body reads ``Var("acc")``.

    ``score`` is an expression of ``Var("acc")``, which there is ``sum over depth of q * k``.

    Attributes:
        q: queries over the rows and ``depth``.
        k: keys over the outer rows, ``key`` and ``depth``.
        v: values over the outer rows, ``key`` and ``col``.
        score: what the softmax is taken of.
        rows: output axes of the queries, outermost first; all but the last also index k and v.
        key: the axis that the softmax runs along.
        depth: the axis that queries and keys are multiplied along.
        col: output axis of the values.
        zero_nan: whether rows whose softmax is not a number give 0.
        zero_empty: whether rows whose scores are all minus infinity give 0.
        integers: if both products are of 8-bit integers, what else that takes; its expression reads
            no tensor, and the body may also read ``Var("mass")``.
    """

    q: Expr
    k: Expr
    v: Expr
    score: Expr
    rows: tuple[Axis, ...]
    key: Axis
    depth: Axis
    col: Axis
    zero_nan: bool = False
    zero_empty: bool = False
    integers: IntegerAttention | None = None

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions."""
        return [self.q, self.k, self.v, self.score]

    def rewritten(self, rewrite: Rewrite) -> Attend:
        """Return the attention with every expression rewritten."""
        q, k, v, score = (rewrite(e) for e in self.expressions())
        return replace(self, q=q, k=k, v=v, score=score)


Whole = Recur | Updates | Sorted | Kept | PagedAttend | QuantizedRows
"""Anchors that work in the memory of their result, so that no epilogue can run on registers."""

Anchor = Steps | Product | Attend | Prefix | BlockSum | DequantizedSum | Whole


class Definition(msgspec.Struct, frozen=True, dict=True):
    """How the elements of a tensor come about.

    Attributes:
        axes: one point of these axes is one element.
        body: the element's value; may use the anchor's variables.
        anchor: what has to be computed first, if it is more than an expression.
        index: which element a point is; by default the axes themselves.
    """

    axes: tuple[Axis, ...]
    body: Expr
    anchor: Anchor | None = None
    index: tuple[Poly, ...] = ()

    @property
    def position(self) -> tuple[Poly, ...]:
        """The element that a point of the axes defines."""
        return self.index or tuple(var(a) for a in self.axes)

    def expressions(self) -> list[Expr]:
        """Return the roots of all expressions: the body's, then the anchor's."""
        return [self.body, *(self.anchor.expressions() if self.anchor is not None else ())]

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """Every load below, in order of appearance."""
        return tuple(e for root in self.expressions() for e in walk(root) if isinstance(e, Load))


class Tensor(msgspec.Struct, eq=False):
    """A value of the model; compared by identity.

    Attributes:
        name: its name in the model.
        shape: extents; polynomials in run-time dimensions.
        dtype: element type.
        definition: its equation; ``None`` for inputs and constants.
        value: its elements, if constant.
        known: its elements in order, if they are integers computed from shapes.
        nodes: names of the model's nodes that it comes from.
        ops: their operator types.
        order: preferred storage order of its dimensions, outermost first; empty for no preference.
        model_shape: of a constant in a kernel's own order, the shape it has in the model.
    """

    name: str
    shape: tuple[Poly, ...]
    dtype: str
    definition: Definition | None = None
    value: np.ndarray | None = None
    known: tuple[Poly, ...] | None = None
    nodes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    order: tuple[int, ...] = msgspec.field(default=())
    model_shape: tuple[Poly, ...] = ()

    def __repr__(self) -> str:
        return f"%{self.name}#{id(self):x}"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> Poly:
        """Number of elements."""
        return product(self.shape)

    def at(self, *index: Poly | int) -> Load:
        """Return the expression of one element."""
        assert len(index) == self.rank, f"{self.name} has rank {self.rank}"
        return Load(self, tuple(as_poly(i) for i in index), self.dtype)

    def broadcast(self, axes: tuple[Axis, ...]) -> Load:
        """Return the element at a point of ``axes``, aligned at the last, extents 1 repeated."""
        aligned = axes[len(axes) - self.rank :]
        index = (as_poly(0) if e == 1 else var(a) for e, a in zip(self.shape, aligned, strict=True))
        return self.at(*index)


def axes_for(shape: tuple[Poly, ...], prefix: str = "i") -> tuple[Axis, ...]:
    """Return one axis per dimension, named by position."""
    return tuple(Axis(f"{prefix}{k}", extent) for k, extent in enumerate(shape))

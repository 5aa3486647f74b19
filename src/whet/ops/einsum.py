"""Einsum: products of tensors by the labels of their dimensions, summed over some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from whet.dtypes import DTYPES
from whet.index import ONE, ZERO, Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, Var
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.ops.build import binary, cast, compute_type
from whet.ops.node import Node, Op
from whet.ops.operand import agree
from whet.words import counted

Labels = tuple[str, ...]


class Term(msgspec.Struct, frozen=True):
    """A tensor whose dimensions carry labels; a label may occur more than once."""

    x: Tensor
    labels: Labels

    def load(self, axes: Mapping[str, Axis]) -> Expr:
        """Return the element at a point; dimensions of extent 1 are repeated."""
        pairs = zip(self.labels, self.x.shape, strict=True)
        return self.x.at(*(ZERO if e == 1 else var(axes[name]) for name, e in pairs))


def lower_einsum(node: Node) -> list[Tensor]:
    """Lower ``Einsum``: operands are contracted one after another, from the left."""
    inputs = [t for t in node.inputs if t is not None]
    terms, result = parse(node, str(node.attribute("equation")), inputs)
    extents = _extents(node, terms)
    while len(terms) > 2:
        later = {*result, *(name for t in terms[2:] for name in t.labels)}
        kept = tuple(n for n in _distinct(terms[:2]) if n in later)
        name = f"contracted{len(terms)}"
        contracted = _contracted(node.step(name), (terms[0], terms[1]), kept, extents)
        terms = [Term(contracted, kept), *terms[2:]]
    if len(terms) == 1:
        return [_summed(node, terms[0], result, extents)]
    return [_contracted(node, (terms[0], terms[1]), result, extents)]


def parse(node: Node, equation: str, inputs: list[Tensor]) -> tuple[list[Term], Labels]:
    """Return the labelled inputs and the labels of the result.

    Dimensions under an ellipsis are labelled by their position from the right.

    Raises:
        ShapeError: the equation does not fit the inputs.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(inputs):
        raise node.error(
            f"{equation!r} has {counted(len(parts), 'operand')}, the node {len(inputs)}"
        )
    terms = [Term(x, _labels(node, part, x.rank)) for part, x in zip(parts, inputs, strict=True)]
    dots = sorted({n for t in terms for n in t.labels if len(n) > 1}, reverse=True)
    if arrow:
        before, ellipsis, after = right.partition("...")
        return terms, (*before, *(dots if ellipsis else ()), *after)
    counts = Counter(c for c in left if c.isalpha())
    return terms, (*dots, *sorted(c for c, count in counts.items() if count == 1))


def _labels(node: Node, part: str, rank: int) -> Labels:
    before, ellipsis, after = part.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not ellipsis):
        raise node.error(f"{part!r} does not fit an operand of rank {rank}")
    return (*before, *(f"dot{k:02}" for k in reversed(range(hidden))), *after)


def _extents(node: Node, terms: list[Term]) -> dict[str, Poly]:
    found: dict[str, Poly] = {}
    for term in terms:
        for name, extent in zip(term.labels, term.x.shape, strict=True):
            known = found.get(name, ONE)
            if ONE not in (known, extent):
                agree(node, (known,), (extent,), f"extents of {name!r}")
            found[name] = extent if known == 1 else known
    return found


def _distinct(terms: Iterable[Term]) -> Labels:
    return tuple(dict.fromkeys(name for t in terms for name in t.labels))


def _axes(labels: Iterable[str], extents: Mapping[str, Poly]) -> dict[str, Axis]:
    return {name: Axis(name, extents[name]) for name in labels}


def _summed(node: Node, term: Term, kept: Labels, extents: Mapping[str, Poly]) -> Tensor:
    """Return a tensor summed over the labels that are not kept."""
    axes = _axes(_distinct([term]), extents)
    along = tuple(a for name, a in axes.items() if name not in kept)
    outer = tuple(axes[name] for name in kept)
    shape = tuple(a.extent for a in outer)
    value = term.load(axes)
    if not along:
        return node.define(shape, value.dtype, Definition(outer, value))
    dtype = compute_type(value.dtype)
    step = Step("total", "sum", along, cast(value, dtype), dtype)
    body = cast(Var("total", dtype), value.dtype)
    return node.define(shape, value.dtype, Definition(outer, body, Steps((step,))))


def _contracted(
    node: Node, pair: tuple[Term, Term], kept: Labels, extents: Mapping[str, Poly]
) -> Tensor:
    """Return the product of two tensors, summed over the labels that are not kept."""
    a, b = (_lonely_summed(node, t, {*kept, *o.labels}, extents) for t, o in (pair, pair[::-1]))
    axes = _axes(_distinct([a, b]), extents)
    along = tuple(x for name, x in axes.items() if name not in kept)
    outer = tuple(axes[name] for name in kept)
    shape = tuple(x.extent for x in outer)
    dtype = a.x.dtype
    if along and DTYPES[dtype].is_float:
        definition = _matrix_product(a, b, axes, kept)
        if kept:
            return node.define(shape, dtype, definition)
        whole = node.temporary("sum", (ONE, ONE), dtype, definition)
        return node.define((), dtype, Definition((), whole.at(0, 0)))
    value = binary("mul", a.load(axes), b.load(axes))
    if not along:
        return node.define(shape, dtype, Definition(outer, value))
    step = Step("total", "sum", along, value, dtype)
    return node.define(shape, dtype, Definition(outer, Var("total", dtype), Steps((step,))))


def _lonely_summed(node: Node, term: Term, used: set[str], extents: Mapping[str, Poly]) -> Term:
    """Sum a tensor over labels that nothing else has, and take its diagonals."""
    kept = tuple(n for n in _distinct([term]) if n in used)
    if kept == term.labels:
        return term
    step = node.step(f"{term.x.name}.sum")
    own = {**extents, **dict(zip(term.labels, term.x.shape, strict=True))}
    return Term(_summed(step, term, kept, own), kept)


def _matrix_product(a: Term, b: Term, axes: Mapping[str, Axis], kept: Labels) -> Definition:
    """Return a product: labels of both are batches or summed, the others rows and columns."""
    if not set(kept) - set(a.labels):
        a, b = b, a  # the one with labels of its own gives the columns
    own = [name for name in kept if name not in a.labels]
    col = axes[own[-1]] if own else Axis("col", as_poly(1))
    both = [axes[n] for n in kept if n in a.labels and n in b.labels]
    rows = [axes[n] for n in kept if n not in b.labels] or [Axis("row", as_poly(1))]
    along = [x for name, x in axes.items() if name not in kept]
    outer = (*both, *(axes[n] for n in own[:-1]), *rows)
    total = Var(ACCUMULATOR, a.x.dtype)
    product = Product(a.load(axes), b.load(axes), outer, col, tuple(along[:-1]), along[-1])
    return Definition((*outer, col), total, product, tuple(var(axes[n]) for n in kept))


OPS: tuple[Op, ...] = (Op("Einsum", lower_einsum),)

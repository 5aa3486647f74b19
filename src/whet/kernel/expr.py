"""Scalar expressions over loop axes: what one element of a result is.

An expression is a tree of frozen nodes. ``Load`` reads a tensor at logical indices; after layouts
are chosen it becomes ``Read``, which reads a kernel parameter at an element address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from whet.index import Atom, IndexLike, Opaque, Poly, as_poly, at_least, less_than

Substitution = Mapping[Atom, IndexLike]


class Expr:
    """Base of all expression nodes; every node has a ``dtype``."""

    __slots__ = ()
    dtype: str

    def substitute(self, mapping: Substitution) -> Expr:
        """Replace axes in every index below this node."""
        return self.map(lambda e: e.substitute(mapping))

    def map(self, rewrite: Callable[[Expr], Expr]) -> Expr:
        """Rebuild this node with each child rewritten."""
        return self

    def children(self) -> tuple[Expr, ...]:
        """Return the direct operands."""
        return ()

    def indices(self) -> tuple[Poly, ...]:
        """Return the index polynomials of this node itself."""
        return ()

    def depends_on(self, atom: Atom) -> bool:
        """Tell whether any index below mentions an atom."""
        return any(atom in all_atoms(p) for e in walk(self) for p in e.indices())


class Const(msgspec.Struct, Expr, frozen=True):
    """A number."""

    value: float | int | bool
    dtype: str

    def __hash__(self) -> int:
        return hash((str(self.value), self.dtype))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Const) or self.dtype != other.dtype:
            return False
        return repr(self.value) == repr(other.value)


class Var(msgspec.Struct, Expr, frozen=True):
    """A value computed by the surrounding kernel: a reduction's result or an accumulator."""

    name: str
    dtype: str


class IndexValue(msgspec.Struct, Expr, frozen=True):
    """An index as a number."""

    index: Poly
    dtype: str

    def substitute(self, mapping: Substitution) -> Expr:
        """Replace axes in the index."""
        return IndexValue(self.index.substitute(mapping), self.dtype)

    def indices(self) -> tuple[Poly, ...]:
        """Return the index."""
        return (self.index,)


class Load(msgspec.Struct, Expr, frozen=True):
    """An element of a tensor at logical indices; ``source`` is compared by identity."""

    source: Any
    index: tuple[Poly, ...]
    dtype: str

    def substitute(self, mapping: Substitution) -> Expr:
        """Replace axes in the indices."""
        return Load(self.source, tuple(p.substitute(mapping) for p in self.index), self.dtype)

    def indices(self) -> tuple[Poly, ...]:
        """Return the logical indices."""
        return self.index


class Read(msgspec.Struct, Expr, frozen=True):
    """An element of a kernel parameter at an element address."""

    param: int
    address: Poly
    dtype: str

    def substitute(self, mapping: Substitution) -> Expr:
        """Replace axes in the address."""
        return Read(self.param, self.address.substitute(mapping), self.dtype)

    def indices(self) -> tuple[Poly, ...]:
        """Return the address."""
        return (self.address,)


class Call(msgspec.Struct, Expr, frozen=True):
    """An operation on values; the table of operations is ``SEMANTICS`` in ``semantics.py``."""

    op: str
    args: tuple[Expr, ...]
    dtype: str

    def map(self, rewrite: Callable[[Expr], Expr]) -> Expr:
        """Rebuild with rewritten operands."""
        args = tuple(rewrite(a) for a in self.args)
        return self if args == self.args else replace(self, args=args)

    def children(self) -> tuple[Expr, ...]:
        """Return the operands."""
        return self.args


class Within(msgspec.Struct, frozen=True):
    """The condition ``0 <= index < extent``."""

    index: Poly
    extent: Poly

    def substitute(self, mapping: Substitution) -> Within:
        """Replace axes in the index."""
        return Within(self.index.substitute(mapping), self.extent.substitute(mapping))

    @property
    def always(self) -> bool:
        """Whether the condition provably holds for every index."""
        return at_least(self.index, 0) and less_than(self.index, self.extent)

    @property
    def never(self) -> bool:
        """Whether the condition provably fails for every index."""
        return at_least(self.index - self.extent, 0) or at_least(-1 - self.index, 0)


class Guard(msgspec.Struct, Expr, frozen=True):
    """``then`` where all conditions hold, else ``otherwise``; ``then`` is not read elsewhere."""

    conditions: tuple[Within, ...]
    then: Expr
    otherwise: Expr
    dtype: str

    def substitute(self, mapping: Substitution) -> Expr:
        """Replace axes, dropping conditions that became certain."""
        conditions = tuple(c.substitute(mapping) for c in self.conditions)
        return guard(conditions, self.then.substitute(mapping), self.otherwise.substitute(mapping))

    def map(self, rewrite: Callable[[Expr], Expr]) -> Expr:
        """Rebuild with rewritten branches."""
        return Guard(self.conditions, rewrite(self.then), rewrite(self.otherwise), self.dtype)

    def children(self) -> tuple[Expr, ...]:
        """Return both branches."""
        return (self.then, self.otherwise)

    def indices(self) -> tuple[Poly, ...]:
        """Return the guarded indices and their extents."""
        return tuple(p for c in self.conditions for p in (c.index, c.extent))


def guard(conditions: tuple[Within, ...], then: Expr, otherwise: Expr) -> Expr:
    """Build a guard without the conditions that are certain."""
    if any(c.never for c in conditions):
        return otherwise
    open_ = tuple(c for c in conditions if not c.always)
    return Guard(open_, then, otherwise, then.dtype) if open_ else then


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield a node and everything below it, expressions inside indices included."""
    left = [expr]
    while left:
        node = left.pop()
        yield node
        left.extend(reversed(node.children()))
        for p in reversed(node.indices()):
            for atom in p.atoms:
                if isinstance(atom, Opaque):
                    left.append(atom.expr)


def depth(expr: Expr) -> int:
    """Return how deep an expression is nested, expressions inside indices included."""
    inner = [a.expr for p in expr.indices() for a in p.atoms if isinstance(a, Opaque)]
    return 1 + max((depth(e) for e in (*expr.children(), *inner)), default=0)


def all_atoms(p: Poly) -> set[Atom]:
    """Return the atoms of a polynomial, those inside data-dependent indices included."""
    found = set(p.atoms)
    for atom in p.atoms:
        if isinstance(atom, Opaque):
            for e in walk(atom.expr):
                for q in e.indices():
                    found |= all_atoms(q)
    return found


def rewrite_leaves(expr: Expr, rewrite: Callable[[Expr], Expr]) -> Expr:
    """Apply a rewrite to every leaf, leaves inside indices included, bottom up."""
    expr = rewrite_places(expr, lambda e: rewrite_leaves(e, rewrite))
    if expr.children():
        return expr.map(lambda e: rewrite_leaves(e, rewrite))
    return rewrite(expr)


def rewrite_places(expr: Expr, rewrite: Callable[[Expr], Expr]) -> Expr:
    """Apply a rewrite to the expressions inside a node's own indices."""
    mapping: dict[Atom, IndexLike] = {}
    for p in expr.indices():
        for atom in p.atoms:
            if isinstance(atom, Opaque):
                inner = rewrite(atom.expr)
                if inner is not atom.expr:
                    mapping[atom] = index_of(inner, atom.low, atom.high)
    return _replace_indices(expr, mapping) if mapping else expr


def _replace_indices(expr: Expr, mapping: Substitution) -> Expr:
    if isinstance(expr, Guard):
        conditions = tuple(c.substitute(mapping) for c in expr.conditions)
        return Guard(conditions, expr.then, expr.otherwise, expr.dtype)
    return expr.substitute(mapping)


def byte_of(index: Poly) -> Expr | None:
    """Return the byte that an index is, as where a table of bytes is looked up, else ``None``."""
    if len(index.terms) != 1:
        return None
    ((monomial, factor),) = index.terms
    if factor != 1 or len(monomial) != 1 or not isinstance(monomial[0], Opaque):
        return None
    place: Expr = monomial[0].expr
    return place if place.dtype == "uint8" else None


def index_of(expr: Expr, low: int | None, high: Poly | None) -> Poly:
    """Return an expression's value as an index."""
    if isinstance(expr, IndexValue):
        return expr.index
    if isinstance(expr, Const):
        return as_poly(int(expr.value))
    return Poly({(Opaque(expr, low, high),): 1})

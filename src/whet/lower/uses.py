"""Who reads whom: the loads in definitions, and rewriting them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from whet.index import Atom, Axis, Dim, IndexLike, var
from whet.kernel.expr import Expr, Load, depth, rewrite_leaves
from whet.kernel.tensor import Definition, Tensor

DEPTH_LIMIT = 64
"""Nesting of a fused expression; every walk over one recurses, in Python and in LLVM."""


def loads(definition: Definition) -> tuple[Load, ...]:
    """Return every load, in order of appearance."""
    return definition.loads


def sources(definition: Definition) -> list[Tensor]:
    """Return the tensors that a definition loads, each once."""
    found: dict[int, Tensor] = {}
    for load in loads(definition):
        found.setdefault(id(load.source), load.source)
    return list(found.values())


def rewrite_definition(definition: Definition, rewrite: Callable[[Expr], Expr]) -> Definition:
    """Rewrite the leaves of every expression."""

    def below(root: Expr) -> Expr:
        return rewrite_leaves(root, rewrite)

    anchor = definition.anchor.rewritten(below) if definition.anchor is not None else None
    return replace(definition, body=below(definition.body), anchor=anchor)


def at_own_place(load: Load, definition: Definition) -> bool:
    """Tell whether an element is read at the place of the element that it is read for."""
    ones: dict[Atom, IndexLike] = {a: 0 for a in definition.axes if a.extent == 1}
    own = tuple(var(a).substitute(ones) for a in definition.axes)
    return tuple(p.substitute(ones) for p in load.index) == own


def index_atoms(load: Load) -> set[Atom]:
    """Return what the place of an element depends on."""
    return {atom for p in load.index for atom in p.atoms}


def is_affine(load: Load) -> bool:
    """Tell whether every index is a sum of axes and run-time dimensions, times numbers."""
    plain = all(isinstance(a, Axis | Dim) for a in index_atoms(load))
    return plain and all(p.is_affine_in(a) for p in load.index for a in p.atoms)


def inline_at(load: Load) -> Expr:
    """Return the body of a load's source at the load's indices."""
    definition: Definition | None = load.source.definition
    assert definition is not None and definition.anchor is None and not definition.index
    return definition.body.substitute(dict(zip(definition.axes, load.index, strict=True)))


def too_deep(inner: Definition, outer: Definition) -> bool:
    """Tell whether one definition, put into another, would nest deeper than may be."""
    return depth(inner.body) + max(map(depth, outer.expressions())) > DEPTH_LIMIT

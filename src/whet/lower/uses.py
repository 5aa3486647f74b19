"""Who reads whom: the loads in definitions, and rewriting them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from whet.kernel.expr import Expr, Load, rewrite_leaves, walk
from whet.kernel.recurrence import Recur
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor


def expressions(definition: Definition) -> list[Expr]:
    """Return the roots of all expressions of a definition."""
    found = [definition.body]
    if isinstance(definition.anchor, Steps):
        found.extend(step.body for step in definition.anchor.steps)
    if isinstance(definition.anchor, Product):
        found.extend((definition.anchor.a, definition.anchor.b))
    if isinstance(definition.anchor, Attend):
        anchor = definition.anchor
        found.extend((anchor.q, anchor.k, anchor.v, anchor.score))
    if isinstance(definition.anchor, Recur):
        found.extend(definition.anchor.expressions())
    return found


def loads(definition: Definition) -> list[Load]:
    """Return every load, in order of appearance."""
    return [e for root in expressions(definition) for e in walk(root) if isinstance(e, Load)]


def sources(definition: Definition) -> list[Tensor]:
    """Return the tensors that a definition loads, each once."""
    found: dict[int, Tensor] = {}
    for load in loads(definition):
        found.setdefault(id(load.source), load.source)
    return list(found.values())


def rewrite_definition(definition: Definition, rewrite: Callable[[Expr], Expr]) -> Definition:
    """Rewrite the leaves of every expression."""
    anchor = definition.anchor
    if isinstance(anchor, Steps):
        steps = tuple(replace(s, body=rewrite_leaves(s.body, rewrite)) for s in anchor.steps)
        anchor = Steps(steps)
    elif isinstance(anchor, Product):
        anchor = replace(
            anchor, a=rewrite_leaves(anchor.a, rewrite), b=rewrite_leaves(anchor.b, rewrite)
        )
    elif isinstance(anchor, Attend):
        q, k, v, score = (
            rewrite_leaves(e, rewrite) for e in (anchor.q, anchor.k, anchor.v, anchor.score)
        )
        anchor = replace(anchor, q=q, k=k, v=v, score=score)
    elif isinstance(anchor, Recur):
        anchor = anchor.rewritten(lambda e: rewrite_leaves(e, rewrite))
    return replace(definition, body=rewrite_leaves(definition.body, rewrite), anchor=anchor)


def inline_at(load: Load) -> Expr:
    """Return the body of a load's source at the load's indices."""
    definition = load.source.definition
    assert definition is not None and definition.anchor is None and not definition.index
    return definition.body.substitute(dict(zip(definition.axes, load.index, strict=True)))

"""Copies in front of products that compute what they move.

A product reads its operand again and again, so that an equation is never inlined there. The copy
that is put in front of it, padded or with channels last, reads every element once: a quantisation
of the input is done by the copy, and is never stored by itself.
"""

from __future__ import annotations

from collections import Counter

from whet.index import product
from whet.kernel.expr import Expr, Load
from whet.kernel.tensor import Tensor
from whet.lower.equations import Equations
from whet.lower.rewrites import Rewrites
from whet.lower.storage import magnitude
from whet.lower.uses import inline_at, loads, rewrite_definition
from whet.ops.movement import concat_parts

NAME = "compute_in_copies"
COPY = ("Copy",)
MOST_GROWTH = 1.5
"""How much larger than its source a copy is at most; windows side by side are far larger."""


def compute_in_copies(equations: Equations, rewrites: Rewrites) -> int:
    """Inline pointwise tensors into the copies that alone read them; return how many."""
    readers = Counter(
        id(load.source)
        for tensor in equations.tensors
        if tensor.definition is not None
        for load in loads(tensor.definition)
    )
    readers.update(id(t) for _, t in equations.outputs)
    gone: set[int] = set()
    for tensor in equations.tensors:
        source = _source(tensor)
        if source is None or readers[id(source)] != 1 or not _is_pointwise(source):
            continue
        if rewrites.take(NAME):
            _inline(tensor, source)
            gone.add(id(source))
    equations.tensors[:] = [t for t in equations.tensors if id(t) not in gone]
    return len(gone)


def _source(tensor: Tensor) -> Tensor | None:
    """Return what a tensor is a copy of, if it is one that reads each element about once."""
    definition = tensor.definition
    if definition is None or definition.anchor is not None or tensor.ops != COPY:
        return None
    found = loads(definition)
    if len(found) != 1:
        return None
    source: Tensor = found[0].source
    points = magnitude(product(a.extent for a in definition.axes))
    return source if points <= MOST_GROWTH * magnitude(source.size) else None


def _is_pointwise(source: Tensor) -> bool:
    inner = source.definition
    computed = inner is not None and inner.anchor is None and not inner.index
    return computed and concat_parts(source) is None


def _inline(tensor: Tensor, source: Tensor) -> None:
    def rewrite(e: Expr) -> Expr:
        return inline_at(e) if isinstance(e, Load) and e.source is source else e

    assert tensor.definition is not None, "a copy is computed"
    tensor.definition = rewrite_definition(tensor.definition, rewrite)
    tensor.nodes = tuple(dict.fromkeys((*source.nodes, *tensor.nodes)))
    tensor.ops = (*source.ops, *tensor.ops)

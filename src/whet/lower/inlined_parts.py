"""Concatenations that disappear into what reads them along their axis: cache writes and queries.

A rotation is a concatenation of two halves. Attention needs the turned queries once, in scratch,
and the cache takes the turned keys; neither needs them in memory in between.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.index import Axis
from whet.kernel.expr import Expr, Load, depth, rewrite_leaves
from whet.kernel.paged import PagedAttend
from whet.kernel.scatter import Updates
from whet.kernel.tensor import Tensor
from whet.lower.equations import Equations
from whet.lower.pieces import pieces_of
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.uses import DEPTH_LIMIT, inline_at
from whet.ops.movement import concat_parts

WRITES = "fuse_cache_writes"
QUERIES = "fuse_query_rotation"


def inline_parts(equations: Equations, rewrites: Rewrites) -> Equations:
    """Inline concatenations that one tensor alone reads, piece by piece; return what is left."""
    readers = count_readers(equations)
    for tensor in equations.tensors:
        definition = tensor.definition
        anchor = definition.anchor if definition is not None else None
        if definition is None:
            continue
        if isinstance(anchor, Updates) and anchor.in_place and anchor.axes:
            found = _inlined(anchor.value, anchor.axes[-1], readers)
            if found is not None and rewrites.take(WRITES):
                tensor.definition = replace(definition, anchor=replace(anchor, value=found.value))
                found.note(tensor)
        elif isinstance(anchor, PagedAttend):
            found = _inlined(anchor.q, anchor.depth, readers)
            if found is not None and rewrites.take(QUERIES):
                tensor.definition = replace(definition, anchor=replace(anchor, q=found.value))
                found.note(tensor)
    return needed_equations(equations)


class _Inlined(msgspec.Struct, frozen=True):
    """A value, and the tensors that disappeared into it."""

    value: Expr
    sources: tuple[Tensor, ...]

    def note(self, tensor: Tensor) -> None:
        """Let a tensor name the nodes of what it now computes."""
        for source in self.sources:
            merge_origins(source, tensor)


def _inlined(value: Expr, axis: Axis, readers: Readers) -> _Inlined | None:
    """Return a value with a concatenation that it alone reads inlined, if there is one.

    It has to fall into pieces along the axis, in each of which one part is read.
    """
    taken: dict[int, Tensor] = {}

    def take(load: Load) -> Expr:
        taken[id(load.source)] = load.source
        return inline_at(load)

    def part(e: Expr) -> Expr:
        inlines = isinstance(e, Load) and _is_plain(e.source, readers)
        return rewrite_leaves(take(e), part) if isinstance(e, Load) and inlines else e

    def whole(e: Expr) -> Expr:
        starts = isinstance(e, Load) and concat_parts(e.source) is not None
        return part(e) if starts else e

    found = rewrite_leaves(value, whole)
    if not taken or depth(found) > DEPTH_LIMIT or pieces_of(axis, found) is None:
        return None
    return _Inlined(found, tuple(reversed(taken.values())))


def _is_plain(source: Tensor, readers: Readers) -> bool:
    """Whether a concatenation, or a part of one, can disappear: nobody else reads it."""
    definition = source.definition
    if definition is None or definition.anchor is not None or definition.index:
        return False
    return readers.single(source)

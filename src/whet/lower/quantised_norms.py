"""Rows that a norm makes and products read as 8-bit integers: one kernel, the norm kept nowhere.

Each row is read twice, once for its sums and once, still in the first cache, to be scaled and
rounded. Only the integers are written, a quarter of what the norm alone would write and read again.
"""

from __future__ import annotations

from msgspec.structs import replace

from whet.index import Atom, IndexLike
from whet.kernel.blocks import QuantizedRows
from whet.kernel.expr import Expr, Load, rewrite_leaves
from whet.kernel.spec import Step
from whet.kernel.tensor import Steps, Tensor
from whet.lower.equations import Equations
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.uses import loads

NAME = "fuse_quantised_norms"


def fuse_quantised_norms(equations: Equations, rewrites: Rewrites) -> Equations:
    """Let rows in blocks do the reductions of what they alone read; return what is left."""
    readers = count_readers(equations)
    for tensor in equations.tensors:
        _take_norm(tensor, readers, rewrites)
    return needed_equations(equations)


def _take_norm(tensor: Tensor, readers: Readers, rewrites: Rewrites) -> None:
    definition = tensor.definition
    if definition is None or not isinstance(definition.anchor, QuantizedRows):
        return
    anchor = definition.anchor
    reduced = [e for e in loads(definition) if _is_reduced(e.source)]
    if not reduced or anchor.steps:
        return
    source: Tensor = reduced[0].source
    alike = all(e.source is source and e.index == reduced[0].index for e in reduced)
    steps = _steps_at(reduced[0], anchor)
    if not alike or steps is None or not readers.single(source) or not rewrites.take(NAME):
        return
    body = source.definition.body.substitute(_points(reduced[0])) if source.definition else None

    def inlined(e: Expr) -> Expr:
        return body if body is not None and isinstance(e, Load) and e.source is source else e

    tensor.definition = replace(
        definition, anchor=replace(anchor, x=rewrite_leaves(anchor.x, inlined), steps=steps)
    )
    merge_origins(source, tensor)


def _is_reduced(source: Tensor) -> bool:
    definition = source.definition
    return definition is not None and isinstance(definition.anchor, Steps) and not definition.index


def _points(load: Load) -> dict[Atom, IndexLike]:
    """Return the axes of a load's source at its indices."""
    return dict(zip(load.source.definition.axes, load.index, strict=True))


def _steps_at(load: Load, anchor: QuantizedRows) -> tuple[Step, ...] | None:
    """Return the reductions of a source at a row, ``None`` if a row has several results of one."""
    points = _points(load)
    steps = tuple(
        replace(s, body=s.body.substitute(points)) for s in load.source.definition.anchor.steps
    )
    whole = all(len(s.axes) == 1 and not s.body.depends_on(anchor.depth) for s in steps)
    return steps if whole else None

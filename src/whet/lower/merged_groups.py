"""Grouped convolutions with few channels: neighbouring groups become one, with zeros between them.

With ``M`` filters a group, a vector of ``L`` lanes holds ``L / M`` groups. As one group of ``L``
filters they take as many multiply-adds as before: before, the other lanes were empty; now they
multiply zeros. But loads, stores and the lines that pixels come in are whole, and the innermost
loop is ``L / M`` times as long. Kernels leave the zeros out again where groups have as many filters
as channels (``spread_groups.py``); else a pixel that is not a finite number reaches the groups
beside its own, as it reaches the pixels beside it in Winograd convolution: level 3 only.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, Poly, as_poly, var
from whet.kernel.expr import Expr, Load, walk
from whet.kernel.tensor import Definition, Product, Tensor
from whet.lower.equations import Equations
from whet.ops.node import constant


def merge_groups(equations: Equations, lanes: int) -> int:
    """Merge the groups of convolutions that fill less than a vector; return how many."""
    count = 0
    result: list[Tensor] = []
    for tensor in equations.tensors:
        merged = None if tensor.definition is None else _merged(tensor.definition, lanes)
        if merged is not None:
            tensor.definition, weights = merged
            result.append(weights)
            count += 1
        result.append(tensor)
    equations.tensors[:] = result
    return count


def _merged(definition: Definition, lanes: int) -> tuple[Definition, Tensor] | None:
    """Return a definition with fewer groups and the weights that it reads, or ``None``."""
    anchor = definition.anchor
    if not isinstance(anchor, Product) or anchor.dot is not None:
        return None
    group = _group_axis(anchor)
    sizes = [a.extent.constant for a in (anchor.col, anchor.depth)]
    if group is None or group.extent.constant is None or None in sizes:
        return None
    filters, channels = (size or 0 for size in sizes)
    together = lanes // filters if filters else 0
    if together < 2 or lanes % filters or group.extent.constant % together or channels < 2:
        return None
    outside = [p for e in walk(definition.body) for p in e.indices()]
    inside = [p for e in walk(anchor.a) for p in e.indices()]
    if not _follow([*outside, *definition.index], group, anchor.col) or not _follow(
        inside, group, anchor.depth
    ):
        return None
    return _rewritten(definition, anchor, group, together)


def _group_axis(anchor: Product) -> Axis | None:
    """Return the axis of the groups, if constant weights lie as [group and filter, channel, …]."""
    b = anchor.b
    if not isinstance(b, Load) or b.source.value is None or b.dtype != "float32":
        return None
    groups = [a for a in anchor.rows if b.depends_on(a)]
    if len(groups) != 1 or len(b.index) < 3:
        return None
    (group,) = groups
    first, second, *others = b.index
    ordered = first == var(group) * anchor.col.extent + var(anchor.col)
    moved = any(a in p.atoms for p in others for a in (group, anchor.col, anchor.depth))
    whole = b.source.shape[:2] == (group.extent * anchor.col.extent, anchor.depth.extent)
    return group if ordered and whole and second == var(anchor.depth) and not moved else None


def _follow(indices: list[Poly], group: Axis, inner: Axis) -> bool:
    """Whether group and inner axis appear only as their flat position, affinely."""
    for p in indices:
        if group not in p.atoms and inner not in p.atoms:
            continue
        if not (p.is_affine_in(group) and p.is_affine_in(inner)):
            return False
        if p.coefficient(group) != p.coefficient(inner) * inner.extent:
            return False
    return True


def _rewritten(
    definition: Definition, anchor: Product, group: Axis, together: int
) -> tuple[Definition, Tensor]:
    """Return the definition with ``together`` groups in one: ``g = together * g'``."""
    assert isinstance(anchor.b, Load), "the weights are read as they are"
    fewer = Axis(group.name, as_poly((group.extent.constant or 0) // together))
    col = Axis(anchor.col.name, anchor.col.extent * together)
    depth = Axis(anchor.depth.name, anchor.depth.extent * together)
    moved: dict[Atom, IndexLike] = {
        group: var(fewer) * together,
        anchor.col: var(col),
        anchor.depth: var(depth),
    }
    weights = _spread(anchor.b.source, group, together)
    rows = tuple(fewer if r is group else r for r in anchor.rows)
    b: Expr = weights.at(*(p.substitute(moved) for p in anchor.b.index))
    product = replace(anchor, a=anchor.a.substitute(moved), b=b, rows=rows, col=col, depth=depth)
    product = replace(product, merged=together)
    axes = {group: fewer, anchor.col: col}
    rewritten = Definition(
        tuple(axes.get(a, a) for a in definition.axes),
        definition.body.substitute(moved),
        product,
        tuple(p.substitute(moved) for p in definition.index),
    )
    return rewritten, weights


def _spread(source: Tensor, group: Axis, together: int) -> Tensor:
    """Return weights over the channels of ``together`` groups, 0 for those of the others."""
    value = source.value
    assert value is not None, "the weights are constant"
    filters, channels = value.shape[:2]
    wide = np.zeros((filters, together * channels, *value.shape[2:]), value.dtype)
    per_group = filters // (group.extent.constant or 1)
    for place in range(together):
        members = np.arange(filters) // per_group % together == place
        wide[members, place * channels : (place + 1) * channels] = value[members]
    return constant(f"{source.name}.merged", wide)

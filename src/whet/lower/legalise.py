"""Making products legal: operands that a contraction cannot read in place are copied first."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, Opaque, Poly, at_least, var
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import Call, Const, Expr, Guard, Load, Within, guard
from whet.kernel.paged import PagedAttend
from whet.kernel.recurrence import Phase, Recur
from whet.kernel.tensor import Attend, Definition, Product, Tensor, axes_for
from whet.lower.contractions import MIN_EDGE_DEPTH, Operand, operand_of, tiled_row
from whet.lower.dots import in_dots, whole_depth
from whet.lower.equations import Equations
from whet.lower.layout import Layout
from whet.lower.narrow_depths import is_narrow, joined_depth
from whet.lower.pieces import pieces_of
from whet.lower.storage import address_of

MIN_MOVED_DEPTH = 32
"""Depth from which an operand with channels first is worth a copy with channels last."""


def legalise(
    equations: Equations,
    layout: Layout,
    stays: Callable[[Tensor], bool],
    dot_size: Callable[[Tensor, Product], int | None],
) -> bool:
    """Insert copies in front of products that need them; returns whether there were any.

    ``stays`` says which products read what there is, ``dot_size`` how many depth values of another
    one are to share a lane, ``None`` if one takes it. A change makes the layout out of date: choose
    it again.
    """
    result: list[Tensor] = []
    before = len(equations.tensors)
    for tensor in equations.tensors:
        definition = tensor.definition
        if stays(tensor):
            result.append(tensor)
            continue
        if definition is not None and isinstance(definition.anchor, Product):
            anchor = definition.anchor
            size = dot_size(tensor, anchor)
            if size is not None:
                result.extend(_legal_dots(tensor, anchor, layout, size))
                result.append(tensor)
                continue
            place = address_of(definition.position, layout.storages[id(tensor)])
            a, copy_a = _legal_a(tensor, anchor, layout, tiled_row(anchor, place))
            b, copy_b = _legal_b(tensor, anchor, layout)
            result.extend(c for c in (copy_a, copy_b) if c is not None)
            if copy_a is not None or copy_b is not None:
                tensor.definition = replace(definition, anchor=replace(anchor, a=a, b=b))
        if definition is not None and isinstance(definition.anchor, Attend):
            result.extend(_legal_attention(tensor, definition, definition.anchor, layout))
        if definition is not None and isinstance(definition.anchor, PagedAttend):
            result.extend(_legal_queries(tensor, definition, definition.anchor, layout))
        if definition is not None and isinstance(definition.anchor, DequantizedSum):
            result.extend(_legal_rows(tensor, definition, definition.anchor, layout))
        if definition is not None and isinstance(definition.anchor, Recur):
            result.extend(_legal_recurrence(tensor, definition, definition.anchor, layout))
        result.append(tensor)
    changed = len(result) != before
    equations.tensors[:] = result
    return changed


def _copy(
    name: str, owner: Tensor, shape: tuple[Poly, ...], axes: tuple[Axis, ...], body: Expr
) -> Tensor:
    return Tensor(
        name, shape, body.dtype, Definition(axes, body), nodes=owner.nodes[:1], ops=("Copy",)
    )


def _gathered(
    owner: Tensor, suffix: str, axes: tuple[Axis, ...], body: Expr
) -> tuple[Expr, Tensor]:
    """Return a load from a new tensor that holds an expression's value at every point of axes."""
    fresh = axes_for(tuple(a.extent for a in axes))
    renamed: dict[Atom, IndexLike] = {a: var(f) for a, f in zip(axes, fresh, strict=True)}
    shape = tuple(a.extent for a in axes)
    copy = _copy(f"{owner.name}.{suffix}", owner, shape, fresh, body.substitute(renamed))
    copy.order = tuple(range(len(shape)))
    return copy.at(*(var(a) for a in axes)), copy


def _legal_a(
    tensor: Tensor, anchor: Product, layout: Layout, row: Axis | None
) -> tuple[Expr, Tensor | None]:
    rows = [r for r in anchor.rows if anchor.a.depends_on(r)]
    axes = (*rows, *anchor.taps, anchor.depth)
    operand = operand_of(anchor.a, anchor.depth)
    if operand is None or not all(_is_affine(load, axes, layout) for load in operand.loads):
        return _gathered(tensor, "a", axes, anchor.a)
    edges = [c for c in operand.conditions if not _shortens_tap(c, anchor, row)]
    at_rows = all(row in c.index.atoms for c in edges)
    if edges and not (at_rows and _readable_at_edges(operand.load, anchor, layout)):
        return (
            _channels_last(tensor, anchor, operand, layout)
            or _padded(tensor, operand)
            or _gathered(tensor, "a", axes, anchor.a)
        )
    return anchor.a, None


def _channels_last(
    tensor: Tensor, anchor: Product, operand: Operand, layout: Layout
) -> tuple[Expr, Tensor] | None:
    """Return the operand read from a copy whose depth is contiguous, where windows reach outside.

    What the caller gives has channels first: each depth step would read cache lines of its own.
    Returns ``None`` if the depth is contiguous already, or short.
    """
    source: Tensor = operand.load.source
    depth = anchor.depth.extent.constant
    found = [d for d, index in enumerate(operand.load.index) if index == var(anchor.depth)]
    address = address_of(operand.load.index, layout.storages[id(source)])
    if len(found) != 1 or depth is None or depth < MIN_MOVED_DEPTH or operand.flips:
        return None
    if address.coefficient(anchor.depth) == 1:
        return None
    axes = axes_for(source.shape)
    body = source.at(*(var(a) for a in axes))
    copy = _copy(f"{tensor.name}.channels_last", tensor, source.shape, axes, body)
    copy.order = (*(d for d in range(len(axes)) if d not in found), *found)
    load = copy.at(*operand.load.index)
    return guard(operand.conditions, load, Const(0, load.dtype)), copy


def _is_affine(load: Load, axes: tuple[Axis, ...], layout: Layout) -> bool:
    address = address_of(load.index, layout.storages[id(load.source)])
    if any(isinstance(a, Opaque) for a in address.atoms):
        return False
    affine = all(address.is_affine_in(a) for a in axes)
    return affine and all(not address.coefficient(a).atoms & set(axes) for a in axes)


def _shortens_tap(condition: Within, anchor: Product, row: Axis | None) -> bool:
    """Whether a condition depends on one tap going forwards and not on the row of the tiles."""
    taps = [t for t in anchor.taps if t in condition.index.atoms]
    if len(taps) != 1 or row in condition.index.atoms:
        return False
    slope = condition.index.coefficient(taps[0]).constant
    return slope is not None and slope > 0


def _readable_at_edges(load: Load, anchor: Product, layout: Layout) -> bool:
    address = address_of(load.index, layout.storages[id(load.source)])
    depth = anchor.depth.extent.constant
    return address.coefficient(anchor.depth) == 1 and depth is not None and depth >= MIN_EDGE_DEPTH


def _padded(
    tensor: Tensor, operand: Operand, fill: Expr | None = None
) -> tuple[Expr, Tensor] | None:
    """Return the operand read from a copy with zeros around it, where no condition is left.

    A dimension read at ``scale * i + shift`` while ``0 <= i < extent``, as a slice of a larger
    tensor is, becomes one that is read at ``i``. Returns ``None`` if a condition is on more.
    """
    source: Tensor = operand.load.source
    moved, shape = list(operand.load.index), list(source.shape)
    lines: dict[int, tuple[Within, Poly, int, Poly]] = {}
    for condition in operand.conditions:
        found = [(d, _line(i, condition.index)) for d, i in enumerate(operand.load.index)]
        line = next(((d, *f) for d, f in found if f is not None and d not in lines), None)
        if line is None:
            return None
        d, scale, shift = line
        low, high = _span(condition.index)
        moved[d], shape[d] = condition.index - low, high - low + 1
        lines[d] = (condition, low, scale, shift)
    axes = axes_for(tuple(shape))
    places, within = [var(a) for a in axes], []
    for d, (condition, low, scale, shift) in lines.items():
        within.append(Within(places[d] + low, condition.extent))
        places[d] = (places[d] + low) * scale + shift
    value: Expr = source.at(*places)
    if operand.flips:
        value = Call("bitcast", (Call("xor", (value, Const(-128, "int8")), "int8"),), "uint8")
    body = guard(tuple(within), value, fill or Const(0, value.dtype))
    copy = _copy(f"{tensor.name}.padded", tensor, tuple(shape), axes, body)
    return copy.at(*moved), copy


def _line(index: Poly, inner: Poly) -> tuple[int, Poly] | None:
    """Return ``scale`` and ``shift`` if ``index = scale * inner + shift`` whatever the axes."""
    axes = sorted((a for a in inner.atoms if isinstance(a, Axis)), key=lambda a: a.key)
    if not axes or axes[0] not in index.atoms:
        return None
    step, own = index.coefficient(axes[0]).constant, inner.coefficient(axes[0]).constant
    if step is None or not own or step % own:
        return None
    shift = index - inner * (step // own)
    return None if any(isinstance(a, Axis) for a in shift.atoms) else (step // own, shift)


def _span(index: Poly) -> tuple[Poly, Poly]:
    """Return the least and greatest value of an index that is affine in its axes."""
    low = high = index
    for atom in index.atoms:
        if not isinstance(atom, Axis):
            continue
        slope = index.coefficient(atom)
        rising = at_least(slope, 0)
        low = low.substitute({atom: 0 if rising else atom.extent - 1})
        high = high.substitute({atom: atom.extent - 1 if rising else 0})
    return low, high


def _legal_dots(tensor: Tensor, anchor: Product, layout: Layout, size: int) -> list[Tensor]:
    """Copy what a product cannot read several values at a time; then lay it out so."""
    copy: Tensor | None
    definition = tensor.definition
    assert definition is not None, "a product is computed"
    whole = whole_depth(anchor.depth, size)
    if whole is not anchor.depth:
        anchor, copy = _whole_product(tensor, anchor, whole)
    else:
        joined = _joined(tensor, anchor, layout, size)
        if joined is not None:
            anchor, copy = joined
        else:
            a, copy = _contiguous_a(tensor, anchor, layout, definition)
            anchor = replace(anchor, a=a)
    if copy is None:
        anchor, copy = in_dots(tensor, anchor, size)
    tensor.definition = replace(definition, anchor=anchor)
    return [copy]


def _joined(
    tensor: Tensor, anchor: Product, layout: Layout, size: int
) -> tuple[Product, Tensor] | None:
    """Return a product of few depth values with its last tap among them, and its copy."""
    if not is_narrow(anchor):
        return None
    outside = anchor.a.otherwise if isinstance(anchor.a, Guard) else Const(0, anchor.a.dtype)
    operand = operand_of(anchor.a.then if isinstance(anchor.a, Guard) else anchor.a)
    if operand is None or not isinstance(outside, Const):
        return None
    if any(isinstance(atom, Opaque) for p in operand.load.index for atom in p.atoms):
        return None
    address = address_of(operand.load.index, layout.storages[id(operand.load.source)])
    conditions = anchor.a.conditions if isinstance(anchor.a, Guard) else ()
    if not conditions and address.coefficient(anchor.depth) == 1:
        return None
    padded = _padded(tensor, Operand(operand.load, conditions, operand.flips), outside)
    if padded is None or not isinstance(padded[0], Load):
        return None
    return joined_depth(anchor, padded[0], padded[1], size)


def _whole_product(tensor: Tensor, anchor: Product, whole: Axis) -> tuple[Product, Tensor]:
    """Return a product along a longer depth, where both operands are 0."""
    inside = (Within(var(whole), anchor.depth.extent),)
    a, b = (
        guard(inside, e.substitute({anchor.depth: var(whole)}), Const(0, e.dtype))
        for e in (anchor.a, anchor.b)
    )
    rows = [r for r in anchor.rows if a.depends_on(r)]
    a, copy = _gathered(tensor, "a", (*rows, *anchor.taps, whole), a)
    return replace(anchor, a=a, b=b, depth=whole), copy


def _contiguous_a(
    tensor: Tensor, anchor: Product, layout: Layout, definition: Definition
) -> tuple[Expr, Tensor | None]:
    """Return the first operand such that depth values lie next to each other."""
    rows = [r for r in anchor.rows if anchor.a.depends_on(r)]
    axes = (*rows, *anchor.taps, anchor.depth)
    outside = anchor.a.otherwise if isinstance(anchor.a, Guard) else Const(0, anchor.a.dtype)
    zeros = isinstance(outside, Const) and outside.value == 0
    inner = anchor.a.then if isinstance(anchor.a, Guard) else anchor.a
    operand = operand_of(inner)
    if operand is None or not _is_affine(operand.load, axes, layout):
        return _gathered(tensor, "a", axes, anchor.a)
    address = address_of(operand.load.index, layout.storages[id(operand.load.source)])
    if address.coefficient(anchor.depth) != 1:
        return _gathered(tensor, "a", axes, anchor.a)
    if not isinstance(anchor.a, Guard):
        return anchor.a, None
    place = address_of(definition.position, layout.storages[id(tensor)])
    row = tiled_row(anchor, place)
    if (
        zeros
        and not operand.flips
        and all(_shortens_tap(c, anchor, row) for c in anchor.a.conditions)
    ):
        return anchor.a, None
    guarded = Operand(operand.load, anchor.a.conditions, operand.flips)
    return _padded(tensor, guarded, outside) or _gathered(tensor, "a", axes, anchor.a)


def _legal_b(tensor: Tensor, anchor: Product, layout: Layout) -> tuple[Expr, Tensor | None]:
    batch = [r for r in anchor.rows if anchor.b.depends_on(r)]
    axes = (*batch, *anchor.taps, anchor.depth, anchor.col)
    if isinstance(anchor.b, Load) and _is_affine(anchor.b, axes, layout):
        address = address_of(anchor.b.index, layout.storages[id(anchor.b.source)])
        if anchor.b.source.value is not None or address.coefficient(anchor.col) == 1:
            return anchor.b, None
    return _gathered(tensor, "b", axes, anchor.b)


def _legal_attention(
    tensor: Tensor, definition: Definition, anchor: Attend, layout: Layout
) -> list[Tensor]:
    """Copy queries, keys or values that are not affine, and those not contiguous that have to be.

    Values have to be along their columns, queries and keys of 8 bits along the depth.
    """
    copies: list[Tensor] = []
    operands = {"q": anchor.q, "k": anchor.k, "v": anchor.v}
    for name, operand in operands.items():
        last = anchor.col if name == "v" else anchor.depth
        middle = anchor.rows[-1] if name == "q" else anchor.key
        batch = [r for r in anchor.rows[:-1] if operand.depends_on(r)]
        axes = (*batch, middle, last)
        legal = isinstance(operand, Load) and _is_affine(operand, axes, layout)
        if legal and (name == "v" or anchor.integers is not None):
            assert isinstance(operand, Load)
            address = address_of(operand.index, layout.storages[id(operand.source)])
            legal = address.coefficient(last) == 1
        if not legal:
            operands[name], copy = _gathered(tensor, name, axes, operand)
            copies.append(copy)
    if copies:
        moved = replace(anchor, q=operands["q"], k=operands["k"], v=operands["v"])
        tensor.definition = replace(definition, anchor=moved)
    return copies


def _legal_queries(
    tensor: Tensor, definition: Definition, anchor: PagedAttend, layout: Layout
) -> list[Tensor]:
    """Copy queries that are neither computed in parts nor affine and contiguous along the depth."""
    axes = (*anchor.axes[:2], anchor.depth)
    if not isinstance(anchor.q, Load) and pieces_of(anchor.depth, anchor.q) is not None:
        return []
    if _is_line(anchor.q, axes, layout):
        return []
    q, copy = _gathered(tensor, "q", axes, anchor.q)
    tensor.definition = replace(definition, anchor=replace(anchor, q=q))
    return [copy]


def _legal_rows(
    tensor: Tensor, definition: Definition, anchor: DequantizedSum, layout: Layout
) -> list[Tensor]:
    """Copy rows that are not affine, or not contiguous along the depth."""
    axes = (anchor.row, anchor.inner)
    if _is_line(anchor.x, axes, layout):
        return []
    x, copy = _gathered(tensor, "x", axes, anchor.x)
    tensor.definition = replace(definition, anchor=replace(anchor, x=x))
    return [copy]


def _is_line(operand: Expr, axes: tuple[Axis, ...], layout: Layout) -> bool:
    """Whether an operand can be read in place, contiguous along the last of its axes."""
    if not isinstance(operand, Load) or not _is_affine(operand, axes, layout):
        return False
    address = address_of(operand.index, layout.storages[id(operand.source)])
    return address.coefficient(axes[-1]) == 1


def _legal_recurrence(
    tensor: Tensor, definition: Definition, anchor: Recur, layout: Layout
) -> list[Tensor]:
    """Copy weights that are neither constant nor contiguous along the columns."""
    copies: list[Tensor] = []
    phases: list[Phase] = []
    for phase in anchor.phases:
        weights: list[Expr] = []
        for weight in phase.weights:
            legal, copy = _legal_weight(tensor, weight, len(copies), anchor, layout)
            weights.append(legal)
            copies.extend([copy] if copy is not None else [])
        phases.append(replace(phase, weights=tuple(weights)))
    if copies:
        tensor.definition = replace(definition, anchor=replace(anchor, phases=tuple(phases)))
    return copies


def _legal_weight(
    tensor: Tensor, weight: Expr, number: int, anchor: Recur, layout: Layout
) -> tuple[Expr, Tensor | None]:
    axes = (anchor.outer, anchor.depth, anchor.col)
    if isinstance(weight, Load) and _is_affine(weight, axes, layout):
        address = address_of(weight.index, layout.storages[id(weight.source)])
        if weight.source.value is not None or address.coefficient(anchor.col) == 1:
            return weight, None
    return _gathered(tensor, f"weight{number}", axes, weight)

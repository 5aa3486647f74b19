"""Operators that take parts of tensors or put parts together: Slice, Split, Concat, Pad, Gather."""

from __future__ import annotations

from collections.abc import Iterator

from whet.errors import UnsupportedError
from whet.index import ZERO, Axis, Poly, as_poly, at_least, var
from whet.kernel.expr import Const, Expr, Guard, IndexValue, Load, Within, guard, index_of
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, const
from whet.ops.late_movement import late_pad, late_slice
from whet.ops.late_shapes import index_number, sizes_from
from whet.ops.node import Node, Op, known_values, normalise_axis
from whet.ops.operand import agree, operand
from whet.words import counted

Shape = tuple[Poly, ...]
FAR = 1 << 30


def replaced(axes: tuple[Axis, ...], position: int, index: Poly) -> Shape:
    """Return the axes as an index, with one of them replaced."""
    return tuple(index if k == position else var(a) for k, a in enumerate(axes))


# -- Concat ----------------------------------------------------------------------------------------


def joined(node: Node, parts: list[Tensor], axis: int) -> Tensor:
    """Return parts one after another along an axis, as nested guards, one per part.

    Every part has a guard, the last one too, so that no part is read outside. ``concat_parts``
    recognises this form.
    """
    offsets = [ZERO]
    for part in parts:
        offsets.append(offsets[-1] + part.shape[axis])
    first = parts[0]
    shape = (*first.shape[:axis], offsets[-1], *first.shape[axis + 1 :])
    axes = axes_for(shape)
    if len(parts) == 1:
        return node.define(shape, first.dtype, Definition(axes, first.at(*map(var, axes))))
    body: Expr = Const(0, first.dtype)
    for part, offset in reversed(list(zip(parts, offsets, strict=False))):
        index = var(axes[axis]) - offset
        load = part.at(*replaced(axes, axis, index))
        body = Guard((Within(index, part.shape[axis]),), load, body, first.dtype)
    return node.define(shape, first.dtype, Definition(axes, body))


def concat_parts(tensor: Tensor) -> tuple[int, list[tuple[Tensor, Poly]]] | None:
    """Return the axis and the parts with their offsets, if a tensor is a concatenation."""
    definition = tensor.definition
    if definition is None or definition.anchor is not None or definition.index:
        return None
    found: list[tuple[Tensor, Poly]] = []
    axes, axis, end = definition.axes, None, ZERO
    body = definition.body
    while isinstance(body, Guard):
        part = _concat_part(body, axes)
        if part is None or axis not in (None, part[1]) or part[2] != end:
            return None
        source, axis, offset = part
        end = end + source.shape[axis]
        found.append((source, offset))
        body = body.otherwise
    if axis is None or not isinstance(body, Const) or end != tensor.shape[axis]:
        return None
    return axis, found


def _concat_part(body: Guard, axes: tuple[Axis, ...]) -> tuple[Tensor, int, Poly] | None:
    """Return the part that one guard selects, its axis and its offset."""
    load = body.then
    if len(body.conditions) != 1 or not isinstance(load, Load) or len(load.index) != len(axes):
        return None
    condition = body.conditions[0]
    for axis, point in enumerate(axes):
        offset = var(point) - condition.index
        if point in offset.atoms:
            continue
        plain = load.index == replaced(axes, axis, condition.index)
        whole = condition.extent == load.source.shape[axis]
        return (load.source, axis, offset) if plain and whole else None
    return None


def _concat(node: Node) -> list[Tensor]:
    inputs = [t for t in node.inputs if t is not None]
    axis = normalise_axis(node, int(node.attribute("axis")), inputs[0].rank)
    for other in inputs[1:]:
        if other.rank != inputs[0].rank or other.dtype != inputs[0].dtype:
            raise node.error("inputs differ in rank or type")
        rest = [(*t.shape[:axis], *t.shape[axis + 1 :]) for t in (inputs[0], other)]
        agree(node, rest[0], rest[1], f"dimensions but {axis}")
    parts = [t for t in inputs if t.shape[axis] != 0] or inputs[:1]
    return [joined(node, parts, axis)]


# -- Slice and Split -------------------------------------------------------------------------------


def _limit(node: Node, bound: Poly, extent: Poly, last: int) -> Poly:
    """Return a slice bound counted from the front and limited to ``[last - 1, extent + last - 1]``.

    ``last`` is 1 for forward and 0 for backward slices. A bound that depends on run-time dimensions
    is taken to lie inside; reads are guarded where that cannot be proved.
    """
    fixed, length = bound.constant, extent.constant
    if fixed is not None and length is not None:
        position = fixed + length if fixed < 0 else fixed
        return as_poly(min(max(position, last - 1), length + last - 1))
    if fixed is not None:
        return _limit_constant(node, fixed, extent, last)
    return bound + extent if at_least(-1 - bound, 0) else bound


def _limit_constant(node: Node, bound: int, extent: Poly, last: int) -> Poly:
    """Limit a constant bound to a run-time extent."""
    if bound >= FAR:
        return extent + (last - 1)
    if bound <= -FAR:
        return as_poly(last - 1)
    position = extent + bound if bound < 0 else as_poly(bound)
    inside = at_least(position, 0) and at_least(extent + (last - 1) - position, 0)
    if not inside:
        raise UnsupportedError(
            f"{node.op} at {bound} of a dimension {extent} that may be shorter",
            where=node.name,
            hint="give the dimension a fixed size",
        )
    return position


def _slice_range(node: Node, start: Poly, end: Poly, step: int, extent: Poly) -> tuple[Poly, Poly]:
    """Return the first index and the count of one sliced dimension."""
    if step > 0:
        first, stop = _limit(node, start, extent, 1), _limit(node, end, extent, 1)
        count = (stop - first + (step - 1)) // step
    else:
        first = _limit(node, start, extent, 0)
        stop = _limit(node, end, extent, 0)
        count = (first - stop + (-step - 1)) // -step
    if count.constant is not None:
        count = as_poly(max(count.constant, 0))
    return first, count


def _slice(node: Node) -> list[Tensor]:
    x = node.input(0)
    if node.late is not None and not _slices_known(node):
        return [late_slice(node, x)]
    given = node.ints(3)
    starts, ends = node.extents(1) or (), node.extents(2) or ()
    named = range(len(starts)) if given is None else given
    axes = [normalise_axis(node, a, x.rank) for a in named]
    steps = node.ints(4) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.error("starts, ends, axes and steps do not go together")
    shape = list(x.shape)
    firsts, strides = [ZERO] * x.rank, [1] * x.rank
    try:
        for start, end, k, step in zip(starts, ends, axes, steps, strict=True):
            firsts[k], shape[k] = _slice_range(node, start, end, step, x.shape[k])
            strides[k] = step
    except UnsupportedError:
        if node.late is None:
            raise
        return [late_slice(node, x)]
    points = axes_for(tuple(shape))
    index = tuple(f + var(a) * s for f, a, s in zip(firsts, points, strides, strict=True))
    return [_part(node, x, tuple(shape), index)]


def _slices_known(node: Node) -> bool:
    inputs = (node.optional(k) for k in (1, 2, 3, 4))
    return all(t is None or known_values(t) is not None for t in inputs)


def _part(node: Node, x: Tensor, shape: Shape, index: Shape, output: int = 0) -> Tensor:
    """Return elements of ``x``; reads that cannot be proved to lie inside are guarded."""
    conditions = tuple(Within(p, e) for p, e in zip(index, x.shape, strict=True))
    sized = all(e != 0 for e in shape)
    load: Expr = x.at(*index)
    body = guard(conditions, load, const(0, x.dtype)) if sized else load
    return node.define(shape, x.dtype, Definition(axes_for(shape), body), output=output)


def _split_sizes(node: Node, extent: Poly) -> tuple[Poly, ...]:
    sizes = node.sizes(1)
    if sizes is not None:
        total = sum(sizes, ZERO)
        if (total - extent).constant not in (None, 0):
            raise node.error(f"sizes {list(sizes)} do not add up to {extent}")
        node.agree(total, extent)
        return sizes
    count = int(node.attribute("num_outputs") or len(node.outputs))
    length = extent.constant
    if length is None:
        if extent % count != 0:
            return _late_split(node, extent, count)
        return (extent // count,) * count
    size = -(-length // count)
    return tuple(as_poly(max(0, min(size, length - k * size))) for k in range(count))


def _late_split(node: Node, extent: Poly, count: int) -> tuple[Poly, ...]:
    """Return the sizes of equal parts, but for the last, of an extent that need not divide."""
    if node.late is None:
        raise UnsupportedError(f"Split of {extent} into {counted(count, 'part')}", where=node.name)
    whole = index_number(extent)
    size = index_number((extent + (count - 1)) // count)
    left = [binary("sub", whole, binary("mul", size, k)) for k in range(count)]
    parts = [binary("max", binary("min", size, rest), 0) for rest in left]
    return sizes_from(node, "parts", parts)


def _split(node: Node) -> list[Tensor]:
    x = node.input(0)
    axis = normalise_axis(node, int(node.attribute("axis", 0)), x.rank)
    result: list[Tensor] = []
    offset = ZERO
    for output, size in enumerate(_split_sizes(node, x.shape[axis])):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        axes = axes_for(shape)
        index = replaced(axes, axis, var(axes[axis]) + offset)
        result.append(node.define(shape, x.dtype, Definition(axes, x.at(*index)), output=output))
        offset = offset + size
    return result


# -- Pad -------------------------------------------------------------------------------------------


def _paddings(node: Node, rank: int) -> list[tuple[int, Poly, Poly]]:
    """Return dimension, padding before and padding after of every padded dimension."""
    pads = node.sizes(1) or ()
    axes = _padded_axes(node, rank)
    if len(pads) != 2 * len(axes):
        raise node.error(f"{counted(len(pads), 'padding')} for {counted(len(axes), 'dimension')}")
    half = len(axes)
    triples = zip(axes, pads[:half], pads[half:], strict=True)
    return [(k, low, high) for k, low, high in triples if low != 0 or high != 0]


def _pad(node: Node) -> list[Tensor]:
    x = node.input(0)
    mode = node.attribute("mode", "constant")
    if mode == "constant" and node.late is not None and not _pads_known(node):
        return [late_pad(node, x)]
    paddings = _paddings(node, x.rank)
    if mode == "constant":
        return [_pad_constant(node, x, paddings)]
    if mode not in _BORDERS:
        raise UnsupportedError(f"Pad with mode {mode!r}", where=node.name)
    result = x
    for number, (k, low, high) in enumerate(paddings):
        shape = (*result.shape[:k], result.shape[k] + low + high, *result.shape[k + 1 :])
        axes = axes_for(shape)
        choices = list(_BORDERS[mode](var(axes[k]) - low, x.shape[k], low, high))
        body: Expr = const(0, x.dtype)
        for condition, index in reversed(choices):
            body = guard((condition,), result.at(*replaced(axes, k, index)), body)
        definition = Definition(axes, body)
        if number == len(paddings) - 1:
            return [node.define(shape, x.dtype, definition)]
        result = node.temporary(f"pad{k}", shape, x.dtype, definition)
    return [_part(node, x, x.shape, tuple(var(a) for a in axes_for(x.shape)))]


def _pads_known(node: Node) -> bool:
    return all(t is None or known_values(t) is not None for t in (node.input(1), node.optional(3)))


def _pad_constant(node: Node, x: Tensor, paddings: list[tuple[int, Poly, Poly]]) -> Tensor:
    value = node.optional(2)
    fill = const(0, x.dtype) if value is None else operand(value, ())
    shape, lows = list(x.shape), [ZERO] * x.rank
    for k, low, high in paddings:
        shape[k], lows[k] = x.shape[k] + low + high, low
    axes = axes_for(tuple(shape))
    index = tuple(var(a) - low for a, low in zip(axes, lows, strict=True))
    conditions = tuple(Within(index[k], x.shape[k]) for k, _, _ in paddings)
    body = guard(conditions, x.at(*index), fill)
    return node.define(tuple(shape), x.dtype, Definition(axes, body))


def _padded_axes(node: Node, rank: int) -> list[int]:
    given = node.ints(3)
    return [normalise_axis(node, a, rank) for a in (range(rank) if given is None else given)]


Border = Iterator[tuple[Within, Poly]]


def _edge(t: Poly, extent: Poly, low: Poly, high: Poly) -> Border:
    yield Within(t, extent), t
    yield Within(-1 - t, low), ZERO
    yield Within(t - extent, high), extent - 1


def _reflect(t: Poly, extent: Poly, low: Poly, high: Poly) -> Border:
    """Mirror at the first and last element, as often as the padding asks for."""
    yield Within(t, extent), t
    period = (extent - 1) * 2
    if extent == 1:
        period = as_poly(1)
    folded = t % period
    if at_least(extent - 1 - low, 0) and at_least(extent - 1 - high, 0):
        yield Within(-1 - t, low), -t
        yield Within(t - extent, high), period - t
        return
    yield Within(folded, extent), folded
    yield Within(period - folded, extent), period - folded


def _wrap(t: Poly, extent: Poly, low: Poly, high: Poly) -> Border:
    """Repeat what is left where the other side is cut, as ONNX Runtime and PyTorch do."""
    first, last = (-min(p.constant or 0, 0) for p in (low, high))
    left = extent - first - last
    if (low == -first and high == -last) or not (first or last):
        first, left = 0, extent
    elif not at_least(left, 1):
        raise UnsupportedError(
            f"Pad that cuts {first + last} of {extent} elements and wraps",
            hint="fix the size of the dimension, with more elements than are cut",
        )
    folded = (t - first) % left
    yield Within(folded, left), folded + first


_BORDERS = {"edge": _edge, "reflect": _reflect, "wrap": _wrap}


# -- CenterCropPad ---------------------------------------------------------------------------------


def _center_crop_pad(node: Node) -> list[Tensor]:
    """Cut off, or put zeros, evenly on both sides; the odd one on the right."""
    x, wanted = node.input(0), node.sizes(1) or ()
    given = node.attribute("axes")
    axes = [normalise_axis(node, a, x.rank) for a in (range(x.rank) if given is None else given)]
    if len(axes) != len(wanted):
        raise node.error(f"{counted(len(wanted), 'extent')} for {len(axes)} axes")
    shape = list(x.shape)
    for k, extent in zip(axes, wanted, strict=True):
        shape[k] = extent
    points = axes_for(tuple(shape))
    index = [var(a) for a in points]
    for k in axes:
        index[k] = index[k] + _half_towards_zero(x.shape[k] - shape[k])
    return [_part(node, x, tuple(shape), tuple(index))]


def _half_towards_zero(surplus: Poly) -> Poly:
    """Return half of a difference, also where only a run says which of the two is larger."""
    if at_least(surplus, 0):
        return surplus // 2
    if at_least(-surplus, 0):
        return -(-surplus // 2)
    return index_of(binary("div", IndexValue(surplus, "int64"), 2), None, None)


OPS: tuple[Op, ...] = (
    Op("CenterCropPad", _center_crop_pad),
    Op("Concat", _concat),
    Op("Slice", _slice),
    Op("Split", _split),
    Op("Pad", _pad),
)

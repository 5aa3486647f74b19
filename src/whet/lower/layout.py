"""Storage: the order of dimensions in memory, and which tensors share memory.

Images are stored with channels last. A pointwise result takes the order of its largest operand. The
parts of a concatenation are written straight into its memory, and a concatenation that starts
another one is a view of it, so that dense blocks copy nothing. Rows that a product reads side by
side are kept apart in the cache (decision 15).
"""

from __future__ import annotations

import msgspec

from whet.dtypes import DTYPES
from whet.index import ZERO, Poly, as_poly, product
from whet.kernel.expr import Load, walk
from whet.kernel.scatter import Updates
from whet.kernel.tensor import Product, Tensor
from whet.lower.equations import Equations
from whet.lower.storage import (
    Root,
    Storage,
    address_of,
    constant_root,
    magnitude,
    packed_strides,
    stored_content,
)
from whet.lower.uses import loads
from whet.ops.movement import concat_parts
from whet.program.records import BufferKind

CROWDING_BYTES = 2048
LINE_BYTES = 64


class Layout(msgspec.Struct):
    """The storage of every tensor, by identity, and concatenation parts that need a copy.

    ``spaced`` holds the identities of tensors whose rows a product reads side by side.
    """

    storages: dict[int, Storage] = msgspec.field(default_factory=dict)
    copied_parts: dict[int, list[tuple[Tensor, Storage]]] = msgspec.field(default_factory=dict)
    spaced: frozenset[int] = frozenset()


def choose_layout(equations: Equations, *, share: bool) -> Layout:
    """Give every tensor its storage."""
    orders: dict[int, tuple[int, ...]] = {}
    outputs = {id(t): name for name, t in equations.outputs}
    for tensor in equations.tensors:
        orders[id(tensor)] = _order(tensor, orders, fixed=id(tensor) in outputs)
    layout = Layout(spaced=_multiplied(equations))
    for tensor in reversed(equations.tensors):
        parts = concat_parts(tensor)
        if parts is None:
            continue
        if id(tensor) not in layout.storages and share and id(tensor) not in outputs:
            _view_of_larger(tensor, parts, orders, layout)
        if id(tensor) not in layout.storages:
            layout.storages[id(tensor)] = _own(tensor, orders[id(tensor)], outputs, layout)
        _place_parts(tensor, parts, layout, outputs, share=share)
    for tensor in equations.tensors:
        if id(tensor) not in layout.storages:
            base = _changed_in_place(tensor)
            layout.storages[id(tensor)] = (
                _own(tensor, orders[id(tensor)], outputs, layout)
                if base is None
                else layout.storages[id(base)]
            )
    return layout


def _multiplied(equations: Equations) -> frozenset[int]:
    """Return the tensors that products read as their broadcast operand."""
    return frozenset(
        id(e.source)
        for tensor in equations.tensors
        if tensor.definition is not None and isinstance(tensor.definition.anchor, Product)
        for e in walk(tensor.definition.anchor.a)
        if isinstance(e, Load)
    )


def _changed_in_place(tensor: Tensor) -> Tensor | None:
    """Return the tensor in whose memory a scatter works, if it has none of its own."""
    definition = tensor.definition
    if definition is None or not isinstance(definition.anchor, Updates):
        return None
    if not definition.anchor.in_place:
        return None
    assert isinstance(definition.body, Load), "a scatter in place starts with what is there"
    base: Tensor = definition.body.source
    return base


def _own(
    tensor: Tensor, order: tuple[int, ...], outputs: dict[int, str], layout: Layout
) -> Storage:
    """Return storage in memory of the tensor's own."""
    strides, content = packed_strides(tensor.shape, order), stored_content(tensor, order)
    if tensor.value is not None:
        root = constant_root(tensor)
    elif id(tensor) in outputs:
        root = Root(
            outputs[id(tensor)], BufferKind.OUTPUT, tensor.dtype, tensor.size, content=content
        )
    elif tensor.definition is None:
        root = Root(tensor.name, BufferKind.INPUT, tensor.dtype, tensor.size, content=content)
    else:
        size = tensor.size
        if id(tensor) in layout.spaced:
            strides, size = _spaced(tensor, order)
        root = Root(tensor.name, BufferKind.TEMP, tensor.dtype, size, content=content)
    return Storage(root, ZERO, strides)


def _spaced(tensor: Tensor, order: tuple[int, ...]) -> tuple[tuple[Poly, ...], Poly]:
    """Return strides and size with a cache line between rows that would crowd the same cache sets.

    A register tile reads the same column of many rows. If rows are a multiple of half a page long,
    these elements share one or two sets of the first cache and push each other out of it.
    """
    inner = [d for d in order if tensor.shape[d] != 1][-1:]
    item = DTYPES[tensor.dtype].size
    row = tensor.shape[inner[0]].constant if inner else None
    if row is None or row == 0 or row * item % CROWDING_BYTES:
        return packed_strides(tensor.shape, order), tensor.size
    widened = list(tensor.shape)
    widened[inner[0]] = as_poly(row + LINE_BYTES // item)
    return packed_strides(widened, order), product(widened)


# -- order of dimensions ---------------------------------------------------------------------------


def _order(tensor: Tensor, orders: dict[int, tuple[int, ...]], *, fixed: bool) -> tuple[int, ...]:
    plain = tuple(range(tensor.rank))
    if fixed or tensor.definition is None:
        return plain
    if tensor.order:
        return tensor.order
    parts = concat_parts(tensor)
    if parts is not None:
        return _most_common([orders[id(p)] for p, _ in parts[1]])
    if isinstance(tensor.definition.anchor, Product) or tensor.definition.index:
        return plain
    return _inherited(tensor, orders) or plain


def _most_common(orders: list[tuple[int, ...]]) -> tuple[int, ...]:
    return max(orders, key=lambda o: (orders.count(o), o))


def _inherited(tensor: Tensor, orders: dict[int, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the order in which the largest operand holds the tensor's elements."""
    definition = tensor.definition
    assert definition is not None
    best: tuple[tuple[int, bool], tuple[int, ...]] | None = None
    for load in loads(definition):
        source: Tensor = load.source
        order = orders[id(source)]
        strides = _strides_seen(load, order, tensor)
        if strides is None:
            continue
        found = tuple(sorted(range(tensor.rank), key=lambda d: -strides[d]))
        rank = (magnitude(source.size), found != tuple(range(tensor.rank)))
        if best is None or rank > best[0]:
            best = rank, found
    return best[1] if best else None


def _strides_seen(load: Load, order: tuple[int, ...], tensor: Tensor) -> list[int] | None:
    """Return the address step of each dimension, if the load visits every dimension."""
    source: Tensor = load.source
    definition = tensor.definition
    assert definition is not None
    storage = Storage(_NOWHERE, ZERO, packed_strides(source.shape, order))
    address = address_of(load.index, storage)
    steps: list[int] = []
    last = 0
    for axis, extent in zip(definition.axes, tensor.shape, strict=True):
        if extent == 1:
            steps.append(last)
            continue
        if not address.is_affine_in(axis):
            return None
        step = magnitude(address.coefficient(axis))
        if step <= 0:
            return None
        steps.append(step)
        last = step
    return steps


_NOWHERE = Root("", BufferKind.TEMP, "float32", as_poly(0))

# -- concatenation ---------------------------------------------------------------------------------

Parts = tuple[int, list[tuple[Tensor, Poly]]]


def _view_of_larger(
    tensor: Tensor, parts: Parts, orders: dict[int, tuple[int, ...]], layout: Layout
) -> None:
    """Make a concatenation a view if its parts already lie side by side in a larger one."""
    axis, members = parts
    first = layout.storages.get(id(members[0][0]))
    if first is None or first.root.kind == BufferKind.OUTPUT:
        return
    for part, offset in members:
        storage = layout.storages.get(id(part))
        if storage is None or storage.root is not first.root or storage.strides != first.strides:
            return
        if storage.offset != first.offset + offset * first.strides[axis]:
            return
    layout.storages[id(tensor)] = Storage(first.root, first.offset, first.strides)
    orders[id(tensor)] = orders[id(members[0][0])]


def _place_parts(
    tensor: Tensor,
    parts: Parts,
    layout: Layout,
    outputs: dict[int, str],
    *,
    share: bool,
) -> None:
    """Let parts be written straight into the concatenation; note those that must be copied."""
    axis, members = parts
    storage = layout.storages[id(tensor)]
    copies: list[tuple[Tensor, Storage]] = []
    for part, offset in members:
        place = Storage(
            storage.root, storage.offset + offset * storage.strides[axis], storage.strides
        )
        known = layout.storages.get(id(part))
        if known is not None and known.root is place.root and known.offset == place.offset:
            continue
        movable = part.definition is not None and known is None and id(part) not in outputs
        if share and movable and part.dtype == tensor.dtype:
            layout.storages[id(part)] = place
        else:
            copies.append((part, place))
    if copies:
        layout.copied_parts[id(tensor)] = copies

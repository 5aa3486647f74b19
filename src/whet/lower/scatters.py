"""Scatters to kernels: which updates are independent of each other, and what runs in lanes."""

from __future__ import annotations

import msgspec

from whet.index import Atom, Axis, IndexLike, Poly, as_poly, product, var
from whet.kernel.expr import Call, Expr, IndexValue, Read, Within, all_atoms
from whet.kernel.scatter import Scatter, Update, Updates
from whet.kernel.spec import Store
from whet.kernel.tensor import Definition
from whet.lower.loops import by_stride
from whet.lower.pieces import pieces_of
from whet.lower.storage import Params, Storage, Storages, address_of, magnitude, to_reads
from whet.target import Target

CHUNK_ELEMENTS = 8192

Pair = tuple[Axis, Axis]


class _Draft(msgspec.Struct):
    """A scatter while its axes are being sorted; ``pairs`` are those that share positions."""

    pairs: list[Pair]
    fill: tuple[Axis, ...]
    axes: tuple[Axis, ...]
    start: Store
    update: Store
    inside: tuple[Within, ...]

    def apply(self, moved: dict[Atom, IndexLike]) -> None:
        """Carry every index over to new axes."""
        self.start, self.update = (_moved(s, moved) for s in (self.start, self.update))
        self.inside = tuple(c.substitute(moved) for c in self.inside)


def _moved(store: Store, moved: dict[Atom, IndexLike]) -> Store:
    return Store(store.param, store.address.substitute(moved), store.value.substitute(moved))


def build_scatter(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Scatter, Params]:
    """Return the kernel that runs a scatter in its storage, and its parameters."""
    params = Params()
    draft = _draft(definition, storage, storages, params)
    if _in_place(definition):
        return _write_in_place(draft, params), params
    pair = next((p for p in draft.pairs if _is_lane(p[0], draft.start.address)), None)
    if pair is not None:
        pair = _split_columns(draft, pair, target, threads)
        draft.pairs.remove(pair)
        draft.fill, draft.axes = (*draft.fill, pair[0]), (*draft.axes, pair[1])
    wide = pair is not None and _runs_wide(draft, pair[1])
    fill = by_stride(draft.fill, draft.start.address)
    outermost = by_stride((a for a, _ in draft.pairs), draft.start.address)
    kernel = Scatter(
        params.records(),
        tuple(sorted(draft.pairs, key=lambda p: outermost.index(p[0]))),
        fill,
        draft.start,
        draft.axes[:-1] if wide else draft.axes,
        draft.inside,
        (Update(draft.axes[-1:] if wide else (), (draft.update,), wide),),
        bool(fill) and _is_lane(fill[-1], draft.start.address),
        _grain(draft),
    )
    return kernel, params


def _write_in_place(draft: _Draft, params: Params) -> Scatter:
    """Return the kernel that changes what is there: rows of elements at places read from data.

    Chunks go along one shared axis, such as heads. What conditions do not depend on runs inside:
    an update finds its place once for a whole row, which is cut where its value's parts meet.
    """
    shared = draft.pairs[:1]
    axes = _in_order(draft)[len(shared) :]
    tested = {atom for c in draft.inside for atom in all_atoms(c.index)}
    last = max((k for k, axis in enumerate(axes) if axis in tested), default=-1)
    return Scatter(
        params.records(),
        tuple(shared),
        (),
        draft.start,
        axes[: last + 1],
        draft.inside,
        tuple(_rows(axes[last + 1 :], draft.update)),
        wide_fill=False,
        in_place=True,
    )


def _in_order(draft: _Draft) -> tuple[Axis, ...]:
    """Return the axes of the updates, the first shared one in front of those applied in order."""
    first = [own for _, own in draft.pairs[:1]]
    rest = [own for _, own in draft.pairs[1:]]
    return (*first, *draft.axes, *rest)


def _rows(axes: tuple[Axis, ...], store: Store) -> list[Update]:
    """Return what happens at one place: a store in lanes for every piece of the last axis."""
    pieces = pieces_of(axes[-1], store.value) if axes else None
    if pieces is None:
        return [Update(axes, (store,), wide=False)]
    return [
        Update((*axes[:-1], piece.axis), stores, _steps(piece.axis, stores[0].address))
        for piece in pieces
        for stores in (tuple(_moved(store, piece.points(t)) for t in range(piece.step)),)
    ]


def _steps(axis: Axis, address: Poly) -> bool:
    """Whether neighbouring positions of an axis lie a fixed distance apart."""
    return address.is_affine_in(axis) and bool(address.coefficient(axis).constant)


def _draft(definition: Definition, storage: Storage, storages: Storages, params: Params) -> _Draft:
    anchor = definition.anchor
    assert isinstance(anchor, Updates) and not definition.index
    output = params.write(storage.root)
    start = address_of(definition.position, storage)
    place = tuple(_index(to_reads(p, storages, params)) for p in anchor.place)
    address = address_of(place, storage)
    value = to_reads(anchor.value, storages, params)
    if anchor.op:
        value = Call(anchor.op, (Read(output, address, value.dtype), value), value.dtype)
    conditions = (Within(p, a.extent) for p, a in zip(place, definition.axes, strict=True))
    pairs = _shared(definition.axes, place, anchor.axes)
    taken = {axis for pair in pairs for axis in pair}
    return _Draft(
        pairs,
        tuple(a for a in definition.axes if a not in taken),
        tuple(a for a in anchor.axes if a not in taken),
        Store(output, start, to_reads(definition.body, storages, params)),
        Store(output, address, value),
        tuple(c for c in conditions if not c.always),
    )


def _in_place(definition: Definition) -> bool:
    return isinstance(definition.anchor, Updates) and definition.anchor.in_place


def _index(place: Expr) -> Poly:
    assert isinstance(place, IndexValue), "places are indices"
    return place.index


def _shared(
    result: tuple[Axis, ...], place: tuple[Poly, ...], axes: tuple[Axis, ...]
) -> list[Pair]:
    """Return the axes of the updates that are positions of the result themselves."""
    pairs = []
    for axis, index in zip(result, place, strict=True):
        own = next((u for u in axes if index == var(u)), None)
        if own is not None and sum(own in p.atoms for p in place) == 1:
            pairs.append((axis, own))
    return pairs


def _is_lane(axis: Axis, address: Poly) -> bool:
    return axis.extent != 1 and address.is_affine_in(axis) and address.coefficient(axis) == 1


def _runs_wide(draft: _Draft, axis: Axis) -> bool:
    """Whether neighbouring updates along an axis change neighbouring elements, or none does."""
    if any(axis in all_atoms(c.index) for c in draft.inside):
        return False
    address = draft.update.address
    return address.is_affine_in(axis) and address.coefficient(axis) == 1


def _split_columns(draft: _Draft, pair: Pair, target: Target, threads: int) -> Pair:
    """Split the axis in lanes, if there are fewer rows than threads; returns its inner part."""
    extent = pair[0].extent.constant
    rows = magnitude(product(a.extent for a, _ in draft.pairs if a != pair[0]))
    if (
        extent is None
        or pair[1].extent != extent
        or rows >= threads
        or _work(draft) < CHUNK_ELEMENTS
    ):
        return pair
    vectors, rest = divmod(extent, target.lanes)
    wanted = next(
        (n for n in range(-(-threads // max(rows, 1)), vectors + 1) if vectors % n == 0), 1
    )
    if rest or wanted == 1:
        return pair
    size = extent // wanted
    moved: dict[Atom, IndexLike] = {}
    inner = []
    outer = []
    for axis in pair:
        outer.append(Axis(f"{axis.name}b", as_poly(wanted)))
        inner.append(Axis(axis.name, as_poly(size)))
        moved[axis] = var(outer[-1]) * size + var(inner[-1])
    draft.apply(moved)
    draft.pairs[draft.pairs.index(pair)] = (outer[0], outer[1])
    draft.pairs.append((inner[0], inner[1]))
    return inner[0], inner[1]


def _work(draft: _Draft) -> int:
    """Return how many elements are filled and updated in all."""
    rows = product(a.extent for a, _ in draft.pairs)
    each = product(a.extent for a in draft.fill) + product(a.extent for a in draft.axes)
    return magnitude(rows * each)


def _grain(draft: _Draft) -> int:
    rows = max(magnitude(product(a.extent for a, _ in draft.pairs)), 1)
    return max(1, min(rows, CHUNK_ELEMENTS * rows // max(_work(draft), 1)))

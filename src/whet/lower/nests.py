"""Pointwise equations and reductions to loop nests."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, Opaque, Poly, as_poly, product, var
from whet.kernel.expr import Expr, Guard, Read, walk
from whet.kernel.spec import Nest, Step, Store
from whet.kernel.tensor import Definition, Steps
from whet.lower.loops import by_stride, indices_of, lane_cost, merge_axes, split_axes
from whet.lower.storage import Params, Storage, Storages, address_of, magnitude, to_reads
from whet.target import Target

CHUNK_ELEMENTS = 8192
MIN_BLOCK = 4096
BAND_ROWS = 4
PIXEL_TILE = 4
CHANNEL_BLOCKS = (4, 3, 2, 1)
WINDOW_CHUNKS = 16
MOST_INTERLEAVED = 4
"""Values side by side that are interleaved: the channels of a picture."""
MOST_LANES = 64
"""Vectors of a point up to which a loop over points next to each other pays."""
EDGE_AXES = 3
"""Axes of a padded copy from which on the last but one is a loop inside of a chunk."""
LEAST_BLOCK = 256
"""Elements in lanes of a block, of which there are two or more."""


class _Draft(msgspec.Struct):
    """A nest while its axes are being shaped."""

    axes: tuple[Axis, ...]
    row: tuple[Axis, ...]
    steps: tuple[Step, ...]
    stores: tuple[Store, ...]

    def exprs(self) -> list[Expr]:
        return [s.body for s in self.steps]

    def apply(self, substitution: dict[Atom, IndexLike]) -> None:
        """Carry every index over to new axes."""
        if not substitution:
            return
        self.steps = tuple(replace(s, body=s.body.substitute(substitution)) for s in self.steps)
        self.stores = tuple(
            Store(s.param, s.address.substitute(substitution), s.value.substitute(substitution))
            for s in self.stores
        )

    def reads(self, exprs: Sequence[Expr]) -> list[Poly]:
        """Return what is read, once however often an expression uses it."""
        found = dict.fromkeys(e for root in exprs for e in walk(root) if isinstance(e, Read))
        return [read.address for read in found]


def build_nest(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Nest, Params]:
    """Return the kernel that computes a definition into storage, and its parameters.

    Chunks depend on the work alone, not on ``threads``.
    """
    params = Params()
    output = params.write(storage.root)
    steps: tuple[Step, ...] = ()
    if isinstance(definition.anchor, Steps):
        steps = tuple(
            replace(s, body=to_reads(s.body, storages, params)) for s in definition.anchor.steps
        )
    value = to_reads(definition.body, storages, params)
    store = Store(output, address_of(definition.position, storage), value)
    kept = tuple(
        a for a in definition.axes if not steps or any(s.body.depends_on(a) for s in steps)
    )
    row = tuple(a for a in definition.axes if a not in kept)
    draft = _Draft(by_stride(kept, store.address), by_stride(row, store.address), steps, (store,))
    _split(draft)
    _merge(draft)
    vector_rows = _choose_lanes(draft, target)
    tile = 0 if vector_rows else _tile_window(draft, target) or _tile_edges(draft, target)
    squares = not vector_rows and _exchanges_axes(draft, target)
    interleaved = not vector_rows and not squares and _interleaves(draft, target)
    if squares or interleaved:
        across = target.lanes if squares else magnitude(draft.axes[-2].extent)
        line = magnitude(draft.axes[-1].extent) * across
        grain, block = max(1, CHUNK_ELEMENTS // max(line, 1)), 0
    else:
        grain, block = _chunking(draft, vector_rows, tile)
    nest = Nest(
        params.records(),
        draft.axes,
        draft.steps,
        draft.row,
        draft.stores,
        vector_rows,
        grain,
        block,
        0 if interleaved else tile,
        squares,
        interleaved,
    )
    return nest, params


def _exchanges_axes(draft: _Draft, target: Target) -> bool:
    """Put the axis along which a copy's source is contiguous next to the lanes, if another is.

    Returns whether there are whole squares to transpose.
    """
    (store,) = draft.stores
    if draft.steps or draft.row or not isinstance(store.value, Read) or not draft.axes:
        return False
    source = store.value
    addresses = (source.address, store.address)
    if source.dtype != "float32" or any(isinstance(a, Opaque) for p in addresses for a in p.atoms):
        return False
    across = [a for a in draft.axes if _step(source.address, a) == 1]
    along = [a for a in draft.axes if _step(store.address, a) == 1]
    if len(across) != 1 or len(along) != 1 or across == along:
        return False
    if not _step(source.address, along[0]) or not _step(store.address, across[0]):
        return False
    if min(magnitude(a.extent) for a in (*across, *along)) < target.lanes:
        return False
    draft.axes = (*(a for a in draft.axes if a not in (*across, *along)), *across, *along)
    return True


def _step(address: Poly, axis: Axis) -> int:
    """Return how far an address moves with an axis, 0 if that is not known."""
    affine = axis in address.atoms and address.is_affine_in(axis)
    return (address.coefficient(axis).constant if affine else None) or 0


def _interleaves(draft: _Draft, target: Target) -> bool:
    """Put a few values side by side in the result, each from a plane, next to the lanes.

    Returns whether there are any, and vectors of each plane to interleave.
    """
    (store,) = draft.stores
    if draft.steps or draft.row or len(draft.axes) < 2:
        return False
    along = draft.axes[-1]
    count, extent = _step(store.address, along), along.extent.constant or 0
    across = [a for a in draft.axes if a.extent == count and _step(store.address, a) == 1]
    if not 1 < count <= MOST_INTERLEAVED or len(across) != 1 or extent < target.lanes:
        return False
    pair = (*across, along)
    reads = draft.reads([store.value])
    if any(isinstance(a, Opaque) for p in reads for a in p.atoms):
        return False
    if any(_step(p, along) not in (0, 1) for p in reads):
        return False
    guards = [e for e in walk(store.value) if isinstance(e, Guard)]
    indices = [c.index for e in guards for c in e.conditions]
    if any(a in p.atoms and _step(p, a) <= 0 for p in indices for a in pair):
        return False
    draft.axes = (*(a for a in draft.axes if a not in pair), *pair)
    return True


def _tile_edges(draft: _Draft, target: Target) -> int:
    """Return 1 if points next to each other take a loop of their own, as in padded copies.

    Their lanes are few, so that finding out where each of them is would take most of the time.
    """
    if draft.steps or draft.row or len(draft.axes) < EDGE_AXES:
        return 0
    guarded = isinstance(draft.stores[0].value, Guard)
    return int(guarded and magnitude(draft.axes[-1].extent) <= MOST_LANES * target.lanes)


def _split(draft: _Draft) -> None:
    """Split axes until no index divides one of them by a constant any more."""
    for _ in range(8):
        before = (draft.axes, draft.row, tuple(s.axes for s in draft.steps))
        indices = indices_of(draft.exprs(), draft.stores)
        draft.axes, substitution = split_axes(draft.axes, indices)
        draft.row, more = split_axes(draft.row, indices)
        substitution = {**substitution, **more}
        shaped = []
        for step in draft.steps:
            axes, own = split_axes(step.axes, indices)
            shaped.append(replace(step, axes=axes, body=step.body.substitute(own)))
        draft.steps = tuple(shaped)
        draft.apply(substitution)
        if before == (draft.axes, draft.row, tuple(s.axes for s in draft.steps)):
            return


def _merge(draft: _Draft) -> None:
    """Sort axes by the step they make in the result, and merge what can be merged."""
    address = draft.stores[0].address
    indices = indices_of(draft.exprs(), draft.stores)
    draft.axes, substitution = merge_axes(by_stride(draft.axes, address), indices)
    draft.row, more = merge_axes(by_stride(draft.row, address), indices)
    draft.apply({**substitution, **more})
    shaped = []
    for step in draft.steps:
        reads = draft.reads([step.body])
        order = by_stride(step.axes, reads[0]) if reads else step.axes
        axes, own = merge_axes(order, indices_of([step.body], ()))
        shaped.append(replace(step, axes=axes, body=step.body.substitute(own)))
    draft.steps = tuple(shaped)


def _choose_lanes(draft: _Draft, target: Target) -> bool:
    """Put the axis that lanes run along last; returns whether it is a row axis."""
    step_reads = [p for s in draft.steps for p in draft.reads([s.body])]
    store_reads = [s.address for s in draft.stores] + draft.reads([s.value for s in draft.stores])
    kept_cost, kept = _cheapest(draft.axes, step_reads + store_reads, target.lanes)
    if not draft.steps:
        draft.axes = _last(draft.axes, kept)
        return False
    row_cost = 0.0
    steps = []
    for step in draft.steps:
        cost, axis = _cheapest(step.axes, draft.reads([step.body]), target.lanes)
        row_cost += cost
        steps.append(replace(step, axes=_last(step.axes, axis)))
    cost, axis = _cheapest(draft.row, store_reads, target.lanes)
    row_cost += cost if draft.row else 0.0
    if all(s.axes for s in steps) and (not draft.axes or row_cost < kept_cost):
        draft.steps = tuple(steps)
        draft.row = _last(draft.row, axis)
        return True
    draft.axes = _last(draft.axes, kept)
    return False


def _cheapest(axes: Sequence[Axis], addresses: list[Poly], lanes: int) -> tuple[float, Axis | None]:
    """Return the axis with the least memory cost in lanes, the later one on a tie."""
    best: tuple[float, Axis | None] = (float("inf"), None)
    for axis in axes:
        cost = lane_cost(axis, addresses, lanes)
        if cost <= best[0]:
            best = cost, axis
    return best


def _last(axes: tuple[Axis, ...], chosen: Axis | None) -> tuple[Axis, ...]:
    return axes if chosen is None else (*(a for a in axes if a != chosen), chosen)


def _tile_window(draft: _Draft, target: Target) -> int:
    """Prepare a window for its loops: channels in blocks, pixels of a row in tiles.

    A block of channels keeps its weights and the rows under the window in the level-1 cache; a
    tile of pixels loads each weight once. Returns the tile, 0 for nests that are no windows.
    """
    if not draft.steps or len(draft.axes) < 2 or draft.row:
        return 0
    taps = {a for step in draft.steps for a in step.axes}
    moving = [p for s in draft.steps for p in draft.reads([s.body]) if p.atoms & taps]
    pixel, lane = draft.axes[-2], draft.axes[-1]
    if not any(pixel in p.atoms for p in moving) or any(lane not in p.atoms for p in moving):
        return 0
    _block_channels(draft, lane, target)
    return PIXEL_TILE


def _block_channels(draft: _Draft, lane: Axis, target: Target) -> None:
    """Split the channel axis into blocks of a few vectors, around the rows of a band."""
    extent = lane.extent.constant
    if extent is None:
        return
    sizes = [n * target.lanes for n in CHANNEL_BLOCKS if extent % (n * target.lanes) == 0]
    if not sizes or extent <= sizes[0]:
        return
    blocks = Axis(f"{lane.name}b", as_poly(extent // sizes[0]))
    channels = Axis(lane.name, as_poly(sizes[0]))
    bands, rows = _bands(draft, draft.axes[:-2])
    draft.axes = (*bands, blocks, *rows, draft.axes[-2], channels)
    draft.apply({lane: var(blocks) * sizes[0] + var(channels)})


def _bands(draft: _Draft, axes: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """Split image rows into bands of a few; returns the axes around a band and those inside.

    A thread then works on the rows that it wrote in the layer before, in all channels.
    """
    extent = axes[-1].extent.constant if axes else None
    sizes = [n for n in range(BAND_ROWS, (extent or 0) // 2 + 1) if extent and extent % n == 0]
    if not sizes:
        return (), axes
    band = Axis(f"{axes[-1].name}b", as_poly((extent or 0) // sizes[0]))
    row = Axis(axes[-1].name, as_poly(sizes[0]))
    draft.apply({axes[-1]: var(band) * sizes[0] + var(row)})
    return (*axes[:-1], band), (row,)


def _chunking(draft: _Draft, vector_rows: bool, tile: int) -> tuple[int, int]:
    """Return grain and block so that a chunk is worth a few microseconds."""
    outer = draft.axes if vector_rows else draft.axes[:-1]
    if tile:
        pixels = magnitude(draft.axes[-2].extent)
        taps = sum(magnitude(product(a.extent for a in s.axes)) for s in draft.steps)
        cost = pixels * magnitude(draft.axes[-1].extent) * max(taps, 1)
        together = WINDOW_CHUNKS if draft.steps else 1
        return max(1, CHUNK_ELEMENTS * together // max(cost, 1)), 0
    points = magnitude(product(a.extent for a in outer))
    inner = 1 if vector_rows or not draft.axes else magnitude(draft.axes[-1].extent)
    reduced = sum(magnitude(product(a.extent for a in s.axes)) for s in draft.steps)
    per_element = max(reduced, 1) if not vector_rows else 1
    row = magnitude(product(a.extent for a in draft.row)) + (reduced if vector_rows else 0)
    cost = max(inner * per_element * max(row, 1), 1)
    long = inner > 2 * LEAST_BLOCK and inner * per_element > 2 * MIN_BLOCK
    if not vector_rows and draft.axes and points <= 8 and long:
        return 1, max(MIN_BLOCK // per_element, LEAST_BLOCK)
    return max(1, min(points, CHUNK_ELEMENTS // cost)), 0

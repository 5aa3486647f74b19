"""Recognising convolutions that Winograd's minimal filtering makes faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.index import Axis, as_poly, var
from whet.kernel.expr import Load, Read
from whet.kernel.schedules import Chooser
from whet.kernel.spec import Store, Tile, Winograd
from whet.kernel.tensor import Definition, Product, Tensor
from whet.kernel.winograd import FILTERINGS, STRIDES, transform_weights
from whet.kernel.winograd_filtering import TAPS, Filtering
from whet.kernel.winograd_work import Convolution
from whet.lower.contractions import Operand, operand_of
from whet.lower.packing import split_panels
from whet.lower.storage import (
    Params,
    Root,
    Storage,
    Storages,
    address_of,
    magnitude,
    packed_content,
    to_reads,
)
from whet.lower.windows import windows_of
from whet.program.records import BufferKind
from whet.target import Target

MIN_CHANNELS = 16
FLOATS = ("float32", "float16", "bfloat16")
"""Types that are read and written as they are; tiles and products are float32."""


@dataclass(frozen=True, slots=True)
class _Match:
    """A 3x3 convolution, its padding and stride."""

    anchor: Product
    operand: Operand
    weights: Load
    pads: tuple[int, int]
    stride: int


def _match(definition: Definition) -> _Match | None:
    anchor = definition.anchor
    if not isinstance(anchor, Product) or len(anchor.rows) != 3 or len(anchor.taps) != 2:
        return None
    operand, weights = operand_of(anchor.a), _filters(anchor)
    if operand is None or weights is None:
        return None
    if operand.load.source.rank != 4 or operand.load.index[1] != var(anchor.depth):
        return None
    windows = windows_of(anchor, operand.load, operand.conditions, STRIDES)
    if (
        windows is None
        or [w.dimension for w in windows] != [2, 3]
        or min(w.pad for w in windows) < 0
    ):
        return None
    return _Match(anchor, operand, weights, (windows[0].pad, windows[1].pad), windows[0].stride)


def _filters(anchor: Product) -> Load | None:
    """Return the weights if they are constant, [filters, channels, 3, 3]."""
    b = anchor.b
    if not isinstance(b, Load) or b.source.value is None or b.dtype not in FLOATS:
        return None
    places = (var(anchor.col), var(anchor.depth), var(anchor.taps[0]), var(anchor.taps[1]))
    return b if b.index == places and b.source.value.shape[2:] == (3, 3) else None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A convolution that Winograd's algorithm is to compute: what it reads and the schedule."""

    match: _Match
    a: Load
    size: int
    tile: Tile

    @property
    def filtering(self) -> Filtering:
        return FILTERINGS[self.size, self.match.stride]


def _plan(definition: Definition, storages: Storages, choose: Chooser) -> _Plan | None:
    """Return how to do a convolution, or ``None`` where Winograd's algorithm is not faster."""
    found = _match(definition)
    if found is None:
        return None
    anchor, source = found.anchor, found.operand.load.source
    image, rows, cols = anchor.rows
    work = Convolution(
        images=image.extent.constant or 1,  # unknown ones may be a single one
        rows=magnitude(rows.extent),
        cols=magnitude(cols.extent),
        depth=magnitude(anchor.depth.extent),
        filters=magnitude(anchor.col.extent),
        stride=found.stride,
    )
    static = all(p.constant is not None for p in (rows.extent, cols.extent, *source.shape[1:]))
    if not static or min(work.depth, work.filters) < MIN_CHANNELS:
        return None
    place = storages[id(source)]
    if address_of(found.operand.load.index, place).coefficient(anchor.depth) != 1:
        return None
    choice = choose.winograd(work)
    return None if choice is None else _Plan(found, found.operand.load, *choice)


def multiplies_less(
    definition: Definition, storages: Storages, choose: Chooser, times: float
) -> bool:
    """Whether Winograd's algorithm is chosen and takes more than ``times`` fewer products."""
    plan = _plan(definition, storages, choose)
    return plan is not None and plan.filtering.saving > times


def build_winograd(
    definition: Definition, storage: Storage, storages: Storages, target: Target, choose: Chooser
) -> tuple[Winograd, Params] | None:
    """Return a Winograd kernel for a convolution, or ``None`` where it would not be faster."""
    plan = _plan(definition, storages, choose)
    if plan is None:
        return None
    found, tile, source = plan.match, plan.tile, plan.a.source
    anchor = found.anchor
    image, rows, cols = anchor.rows
    params = Params()
    output = params.write(storage.root)
    body = to_reads(definition.body, storages, params)
    store = Store(output, address_of(definition.position, storage), body)
    y, x = Axis("y", source.shape[2]), Axis("x", source.shape[3])
    place = storages[id(source)]
    address = address_of((*plan.a.index[:2], var(y), var(x)), place)
    a = Read(params.number(place.root), address, source.dtype)
    weights = params.number(_packed_root(found, plan.filtering, tile.vectors * target.lanes))
    kernel = Winograd(
        params.records(),
        image,
        y,
        x,
        anchor.depth,
        rows,
        cols,
        anchor.col,
        a,
        weights,
        (store,),
        found.pads,
        plan.size,
        tile,
        found.stride,
    )
    return kernel, params


def _packed_root(found: _Match, filtering: Filtering, width: int) -> Root:
    """Return weights that are only transformed, or ordered, when they are packed."""
    source: Tensor = found.weights.source
    value = source.value
    assert value is not None, "matched"
    filters, depth = value.shape[:2]
    count = filtering.stored * -(-filters // width) * width * depth
    return Root(
        f"{source.name}.winograd",
        BufferKind.CONSTANT,
        "float32",
        as_poly(count),
        lambda: _pack(value, filtering, width),
        packed_content(source, "float32"),
    )


def _pack(weights: np.ndarray, filtering: Filtering, width: int) -> np.ndarray:
    """Return transformed weights as [panels, positions, depth, width], zeros at the end.

    Where they are transformed in registers it is the taps, as [panels, depth, taps, width].
    """
    if filtering.whole:
        rows = weights.reshape(*weights.shape[:2], TAPS).transpose(1, 2, 0).astype(np.float32)
    else:
        rows = transform_weights(weights, filtering)
    return split_panels(rows, width).transpose(2, 0, 1, 3)

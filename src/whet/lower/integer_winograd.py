"""Recognising 3x3 convolutions of 8-bit integers that Winograd's algorithm makes faster."""

from __future__ import annotations

import msgspec
import numpy as np

from whet.index import Axis, as_poly, product, var
from whet.kernel.expr import Const, Guard, Load, Read
from whet.kernel.integer_filtering import is_exact
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.integer_winograd_schedule import IntegerConvolution, Plan
from whet.kernel.schedules import Chooser, Schedules
from whet.kernel.spec import PAIR, Store
from whet.kernel.tensor import Definition, Product
from whet.kernel.winograd_filtering import TAPS
from whet.lower.contractions import operand_of
from whet.lower.equations import Equations
from whet.lower.packing import split_panels
from whet.lower.rewrites import Rewrites
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
from whet.lower.windows import Window, windows_of
from whet.program.records import BufferKind
from whet.target import Target

NAME = "winograd_bytes"
RANK = 4
"""Dimensions of images."""


class _Match(msgspec.Struct, frozen=True):
    """A 3x3 convolution of bytes: what is read, whether it is signed, what is outside, windows."""

    anchor: Product
    load: Load
    flips: bool
    fill: int
    weights: np.ndarray
    windows: tuple[Window, Window]


def winograd_bytes(
    equations: Equations, rewrites: Rewrites, target: Target, schedules: Schedules
) -> dict[int, Plan]:
    """Return how products are done that are faster by Winograd's algorithm, by tensors' ids.

    Raises:
        OptionError: a schedule that is known cannot be carried out.
    """
    plans: dict[int, Plan] = {}
    for tensor in equations.tensors:
        found = None if tensor.definition is None else _match(tensor.definition)
        if found is None or not is_exact(found.weights):
            continue
        choose = Chooser(schedules, target, tensor.nodes)
        plan = choose.integer_winograd(_work(found))
        if plan is not None and rewrites.take(NAME):
            plans[id(tensor)] = plan
    return plans


def _work(found: _Match) -> IntegerConvolution:
    image, rows, cols = found.anchor.rows
    filters, depth = found.weights.shape[:2]
    images = image.extent.constant or 1  # unknown ones may be a single one
    return IntegerConvolution(
        images, magnitude(rows.extent), magnitude(cols.extent), depth, filters
    )


def is_contiguous(definition: Definition, storages: Storages) -> bool:
    """Whether the channels of a pixel lie next to each other."""
    found = _match(definition)
    if found is None:
        return False
    address = address_of(found.load.index, storages[id(found.load.source)])
    return address.coefficient(found.anchor.depth) == 1


def _match(definition: Definition) -> _Match | None:
    anchor = definition.anchor
    if not isinstance(anchor, Product) or len(anchor.rows) != 3 or len(anchor.taps) != 2:
        return None
    weights, a = _filters(anchor), anchor.a
    outside = a.otherwise if isinstance(a, Guard) else Const(0, a.dtype)
    operand = operand_of(a.then if isinstance(a, Guard) else a)
    if weights is None or operand is None or operand.conditions or not isinstance(outside, Const):
        return None
    load = operand.load
    conditions = a.conditions if isinstance(a, Guard) else ()
    windows = windows_of(anchor, load, conditions, (1,))
    if windows is None:
        return None
    known = [*(w.extent for w in windows), *(w.row.extent for w in windows)]
    seen = {w.dimension for w in windows}
    others = {p for d, p in enumerate(load.index) if d not in seen}
    if None in [e.constant for e in known] or len(load.index) != RANK:
        return None
    if others != {var(anchor.rows[0]), var(anchor.depth)}:
        return None
    return _Match(anchor, load, operand.flips, int(outside.value), weights, windows)


def _filters(anchor: Product) -> np.ndarray | None:
    """Return the weights if they are constant, [filters, channels, 3, 3]."""
    b = anchor.b
    if (anchor.a.dtype, b.dtype) != ("uint8", "int8") or anchor.dot is not None:
        return None
    if not isinstance(b, Load) or b.source.value is None or anchor.gate is not None:
        return None
    places = (var(anchor.col), var(anchor.depth), var(anchor.taps[0]), var(anchor.taps[1]))
    value: np.ndarray = b.source.value
    return value if b.index == places and value.shape[2:] == (3, 3) else None


def build_integer_winograd(
    definition: Definition, storage: Storage, storages: Storages, target: Target, plan: Plan
) -> tuple[IntegerWinograd, Params]:
    """Return the kernel of a convolution of bytes that there is a plan for, and its parameters."""
    found = _match(definition)
    assert found is not None, "there is a plan"
    anchor, source = found.anchor, found.load.source
    image, rows, cols = anchor.rows
    params = Params()
    output = params.write(storage.root)
    body = to_reads(definition.body, storages, params)
    store = Store(output, address_of(definition.position, storage), body)
    y, x = (Axis(n, w.extent) for n, w in zip("yx", found.windows, strict=True))
    index = list(found.load.index)
    for window, axis in zip(found.windows, (y, x), strict=True):
        index[window.dimension] = var(axis)
    place = storages[id(source)]
    address = address_of(index, place)
    read = Read(params.number(place.root), address, source.dtype)
    weights = params.number(_packed_root(found, plan.tile.vectors * target.lanes))
    kernel = IntegerWinograd(
        params.records(),
        image,
        y,
        x,
        anchor.depth,
        rows,
        cols,
        anchor.col,
        read,
        found.flips,
        found.fill,
        weights,
        (store,),
        (found.windows[0].pad, found.windows[1].pad),
        plan.tiles,
        plan.tile,
        plan.in_registers,
    )
    return kernel, params


def _packed_root(found: _Match, width: int) -> Root:
    """Return taps as they are multiplied: pairs of channels of a panel side by side."""
    assert isinstance(found.anchor.b, Load), "it matched"
    source, weights = found.anchor.b.source, found.weights
    filters, depth = weights.shape[:2]
    shape = (-(-filters // width), -(-depth // PAIR), TAPS, width, PAIR)
    size = product(as_poly(n) for n in shape)
    content = packed_content(source, "int8")
    name = f"{source.name}.winograd"
    return Root(name, BufferKind.CONSTANT, "int8", size, lambda: _pack(weights, width), content)


def _pack(weights: np.ndarray, width: int) -> np.ndarray:
    """Return taps [M, C, 3, 3] as [panels, C / 2, taps, width, 2], zeros at the ends."""
    filters, depth = weights.shape[:2]
    pairs = -(-depth // PAIR)
    even = np.zeros((filters, pairs * PAIR, TAPS), weights.dtype)
    even[:, :depth] = weights.reshape(filters, depth, TAPS)
    rows = even.reshape(filters, pairs, PAIR, TAPS).transpose(1, 3, 2, 0)
    return split_panels(rows, width).transpose(3, 0, 1, 4, 2)

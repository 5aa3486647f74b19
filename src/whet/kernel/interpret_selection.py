"""What scans, scatters, sorts and filters mean, one row and one element after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cmp_to_key

import numpy as np
from msgspec.structs import replace

from whet.dtypes import numpy_dtype
from whet.index import Axis
from whet.kernel.expr import Expr, IndexValue
from whet.kernel.filter import Kept
from whet.kernel.grid import Grid
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.semantics import REDUCTIONS, SEMANTICS, Array, convert, identity_of
from whet.kernel.sort import ABSENT, Sorted
from whet.kernel.tensor import Definition

Row = tuple[int, ...]


def run_scan(grid: Grid, anchor: Prefix) -> Array:
    """Return the totals at every point of a grid."""
    terms = np.broadcast_to(grid.value(anchor.term), grid.shape)
    along = grid.axes.index(anchor.step)
    with np.errstate(all="ignore"):
        totals = REDUCTIONS[anchor.op].accumulate(terms, axis=along, dtype=terms.dtype)
    if anchor.exclusive and totals.shape[along]:
        first = np.take(np.full_like(totals, identity_of(anchor.op, anchor.dtype)), [0], along)
        rest = np.take(totals, range(totals.shape[along] - 1), along)
        totals = np.concatenate([first, rest], axis=along)
    return convert(totals, anchor.dtype, precise=grid.precise)


def run_updates(grid: Grid, result: Array, anchor: Updates) -> None:
    """Change the elements of a result in place."""
    grid = replace(grid, axes=anchor.axes)
    places = [np.broadcast_to(_index(grid, p), grid.shape) for p in anchor.place]
    values = np.broadcast_to(grid.value(anchor.value), grid.shape)
    for point in np.ndindex(*grid.shape):
        place = tuple(int(p[point]) for p in places)
        if not all(0 <= k < extent for k, extent in zip(place, result.shape, strict=True)):
            continue
        value = values[point]
        if anchor.op:
            with np.errstate(all="ignore"):
                value = SEMANTICS[anchor.op](result[place].astype(value.dtype), value)
        result[place] = value


def _index(grid: Grid, place: Expr) -> Array:
    assert isinstance(place, IndexValue), "places are indices"
    return grid.index(place.index)


def run_sort(grid: Grid, definition: Definition, anchor: Sorted) -> Array:
    """Return the positions of all rows in order."""
    rows = _rows_of(definition, anchor.rank)
    wide = replace(grid, axes=(*rows, anchor.along, anchor.depth))
    keys = np.broadcast_to(wide.value(anchor.key), wide.shape)
    line = replace(grid, axes=(*rows, anchor.along))
    true = np.asarray(True)
    kept = np.broadcast_to(true if anchor.kept is None else line.value(anchor.kept), line.shape)
    sign = -1 if anchor.descending else 1

    def found(row: Row) -> list[int]:
        positions = [k for k, use in enumerate(kept[row]) if use]
        own = keys[row]
        return sorted(positions, key=cmp_to_key(lambda i, j: sign * _compare(own[i], own[j])))

    return _ranked(grid, definition, anchor.rank, found)


def _compare(x: Array, y: Array) -> int:
    """Compare two keys by their first difference; NaN is larger than numbers."""
    for a, b in zip(x, y, strict=True):
        strange = int(np.isnan(a)) - int(np.isnan(b))
        order = strange or int(a > b) - int(a < b)
        if order:
            return order
    return 0


def run_filter(grid: Grid, definition: Definition, anchor: Kept) -> Array:
    """Return the positions of what is kept of all rows."""
    rows = _rows_of(definition, anchor.rank)
    line = replace(grid, axes=(*rows, anchor.along))
    keep = np.broadcast_to(line.value(anchor.keep), line.shape)
    pairs = replace(grid, axes=(*rows, anchor.along, anchor.other))
    false = np.asarray(False)
    clash = false if anchor.clash is None else pairs.value(anchor.clash)
    clash = np.broadcast_to(clash, pairs.shape)

    def found(row: Row) -> list[int]:
        taken: list[int] = []
        for position, may in enumerate(keep[row]):
            if may and not clash[row][position][taken].any():
                taken.append(position)
        return taken

    return _ranked(grid, definition, anchor.rank, found)


def _rows_of(definition: Definition, rank: Axis) -> tuple[Axis, ...]:
    return tuple(a for a in definition.axes if a != rank)


def _ranked(
    grid: Grid, definition: Definition, rank: Axis, found: Callable[[Row], list[int]]
) -> Array:
    """Return the result of a function of rows, cut or filled to the number of ranks."""
    rows = replace(grid, axes=_rows_of(definition, rank))
    count = grid.extent(rank.extent)
    result = np.full((*rows.shape, count), ABSENT, numpy_dtype("int64"))
    for row in np.ndindex(*rows.shape):
        positions = found(row)[:count]
        result[row][: len(positions)] = positions
    return np.moveaxis(result, -1, definition.axes.index(rank))

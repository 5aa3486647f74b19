"""Products in pairs, where a processor adds beside its multiply-adds (decision 37)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.index import Axis, as_poly, product
from whet.kernel.paired_schedule import PairedWork, may_be_paired, most_rows
from whet.kernel.pairs import BLOCKS, Pairs, groups_of, sign_of
from whet.kernel.schedule import even
from whet.kernel.schedules import Chooser, Schedules
from whet.kernel.spec import Contraction, Param
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root, magnitude, row_major
from whet.program.records import BufferKind
from whet.target import Target

NAME = "pair_products"
SAMPLES = 64
"""Weights of a column that its size is taken from."""
LEAST, MOST = 1e-30, 1e30
"""Mean squares of a column that float32 holds as exactly as any."""
MOST_EXPONENT = 126
NEAR_ONE = 20
"""Exponents of sizes whose squares are far from what is too large or too small for float32."""


def pair_products(
    calls: Sequence[KernelCall], target: Target, schedules: Schedules, rewrites: Rewrites
) -> list[KernelCall]:
    """Return the kernels of a program with products in pairs where that is faster."""
    result: list[KernelCall] = []
    for call in calls:
        paired = None
        if rewrites.any_left(NAME):
            paired = _paired(call, Chooser(schedules, target, call.nodes))
        result.append(paired if paired is not None and rewrites.take(NAME) else call)
    return result


def _paired(call: KernelCall, choose: Chooser) -> KernelCall | None:
    """Return a call whose products are in pairs, ``None`` if that is not possible or not faster."""
    kernel, target, lanes = call.kernel, choose.target, choose.target.lanes
    if not isinstance(kernel, Contraction) or not _has_constant_weights(call, kernel):
        return None
    if not _is_known(kernel) or not _is_contiguous(kernel, lanes):
        return None
    lines = _lines(kernel, target)
    work = _work(kernel, lines)
    tile = choose.paired(work) if may_be_paired(work, target) else None
    if tile is None:
        return None
    return _rewritten(call, replace(kernel, tile=tile, lines=lines), kernel.tile.vectors, lanes)


def _has_constant_weights(call: KernelCall, kernel: Contraction) -> bool:
    """Whether a product of floats is by constant weights that all rows share."""
    operands = {*(a.param for a in kernel.scalars), kernel.b.param}
    floats = all(kernel.params[p].dtype == "float32" for p in operands)
    constant = kernel.b.padded and call.roots[kernel.b.param].make is not None
    return floats and constant and kernel.dot is None and kernel.b.base.constant == 0


def _is_known(kernel: Contraction) -> bool:
    """Whether the size is known but for what is around, as a batch of images."""
    axes = (kernel.row, kernel.col, *kernel.taps, kernel.depth)
    return all(axis.extent.constant is not None for axis in axes) and not kernel.spread


def _is_contiguous(kernel: Contraction, lanes: int) -> bool:
    """Whether each vector of depth values lies in a row, within one tap and one operand."""
    straight = all(a.address.coefficient(kernel.depth) == 1 for a in kernel.scalars)
    whole = _taps(kernel) == 1 or _count(kernel.depth) % lanes == 0
    return straight and whole and (kernel.second is None or kernel.second.start % lanes == 0)


def _lines(kernel: Contraction, target: Target) -> int | None:
    """Return how many lines a register tile takes, if it takes several."""
    lines = kernel.outer[-1] if kernel.outer else None
    gated = kernel.gate is not None and lines in kernel.gate.address.atoms
    if lines is None or lines.extent.constant is None or gated:
        return None
    most, total = most_rows(target) // _count(kernel.row), _count(lines)
    return even(total, most) if min(most, total) > 1 else None


def _work(kernel: Contraction, lines: int | None) -> PairedWork:
    outer = magnitude(product(axis.extent for axis in kernel.outer))
    depth = _taps(kernel) * _count(kernel.depth)
    rows = _count(kernel.row) * (lines or 1)
    groups = -(-outer // (lines or 1))
    return PairedWork(groups, rows, _count(kernel.col), depth, whole=lines is not None)


def _taps(kernel: Contraction) -> int:
    taps = product(axis.extent for axis in kernel.taps).constant
    assert taps is not None, "the size is known"
    return taps


def _count(axis: Axis) -> int:
    count = axis.extent.constant
    assert count is not None, "the size is known"
    return count


def _rewritten(call: KernelCall, kernel: Contraction, vectors: int, lanes: int) -> KernelCall:
    """Return the call of a kernel whose weights were packed for tiles of several vectors."""
    depth = _taps(kernel) * _count(kernel.depth)
    panels = -(-_count(kernel.col) // lanes)
    old = call.roots[kernel.b.param]
    weights = _Weights(old, vectors, depth, panels, lanes)

    def root(name: str, size: int, make: Callable[[], np.ndarray]) -> Root:
        kind, count = BufferKind.CONSTANT, as_poly(size)
        return Root(f"{old.name}.{name}", kind, "float32", count, make, old.content)

    divided = root("divided", panels * depth * lanes, weights.divided)
    squares = root("squares", panels * lanes + 2, weights.squares)
    factors = root("factors", panels * lanes, weights.factors)
    inside = (*(axis.extent for axis in (*kernel.taps, kernel.depth)), as_poly(lanes))
    strides = row_major(inside)
    count, constant = len(kernel.params), Param("float32", written=False)
    paired = replace(
        kernel,
        params=(*kernel.params, constant, constant),
        b=replace(
            kernel.b,
            panel_stride=as_poly(depth * lanes),
            depth_stride=as_poly(lanes),
            tap_strides=strides[: len(kernel.taps)],
        ),
        pairs=Pairs(count, count + 1),
    )
    roots = [divided if k == kernel.b.param else r for k, r in enumerate(call.roots)]
    return replace(call, kernel=paired, roots=(*roots, squares, factors))


class _Weights(msgspec.Struct):
    """The weights of a product in pairs, made when they are written down.

    Attributes:
        packed: the weights in panels of several vectors.
        vectors: so many.
        depth: depth values.
        panels: vectors of columns.
        lanes: elements of a vector.
        made: what belongs to the columns, if it was made: squares and factors.
    """

    packed: Root
    vectors: int
    depth: int
    panels: int
    lanes: int
    made: tuple[np.ndarray, np.ndarray] | None = None

    def divided(self) -> np.ndarray:
        """Return the weights as [panels, depth, lanes], divided by their columns' factors."""
        values = self._values()
        factors, exponent = _factors(values)
        other = factors[(factors != 1) & (factors != 0)]
        if other.size:
            values = values / np.where(factors > 0, factors, np.float32(1))[:, None, :]
        squares = self._squares(values)
        finite = bool(np.isfinite(squares).all()) and self._rest_is_finite(values)
        behind = np.array([not finite, exponent], np.float32)
        self.made = np.concatenate([squares.reshape(-1), behind]), factors.reshape(-1)
        return values

    def squares(self) -> np.ndarray:
        """Return what the sums of each column begin with, and whether weights are not finite."""
        return self._columns()[0]

    def factors(self) -> np.ndarray:
        """Return what each column was divided by."""
        return self._columns()[1]

    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        if self.made is None:
            self.divided()
        assert self.made is not None
        return self.made

    def _values(self) -> np.ndarray:
        assert self.packed.make is not None, "weights are constant"
        wide: np.ndarray = self.packed.make().reshape(-1, self.depth, self.vectors, self.lanes)
        return np.moveaxis(wide, 2, 1).reshape(-1, self.depth, self.lanes)[: self.panels]

    def _squares(self, values: np.ndarray) -> np.ndarray:
        one, two = (self._groups(values)[:, :, block] for block in range(1, BLOCKS))
        signed = np.array([-sign_of(lane, self.lanes) for lane in range(self.lanes)], np.float32)
        with np.errstate(all="ignore"):
            each: np.ndarray = np.einsum("pgkc,pgkc,k->pgc", one, two, signed)
            sums: np.ndarray = each.sum(1, dtype=np.float64)
            return sums.astype(np.float32)

    def _rest_is_finite(self, values: np.ndarray) -> bool:
        """Whether all values are finite that are in no pair."""
        groups = self._groups(values)
        parts = groups[:, :, 0], values[:, groups.shape[1] * BLOCKS * self.lanes :]
        return all(bool(np.isfinite(part).all()) for part in parts)

    def _groups(self, values: np.ndarray) -> np.ndarray:
        """Return [panels, groups, blocks, depth values, lanes]."""
        groups = groups_of(self.depth, self.lanes)
        size = groups * BLOCKS * self.lanes
        return values[:, :size].reshape(self.panels, groups, BLOCKS, self.lanes, self.lanes)


def _factors(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return powers of two that columns are to be divided by, and the exponent of what is left.

    Columns that are half or twice as large as most stay as they are, so that weights are mostly
    copied without a change. Those of zeros have the factor 0.
    """
    with np.errstate(all="ignore"):
        few = values[:, :: max(values.shape[1] // SAMPLES, 1)]
        means = np.einsum("pkc,pkc->pc", few, few).astype(np.float64) / few.shape[1]
        outside = ~((means > LEAST) & (means < MOST))
        means[outside] = np.square(values.swapaxes(1, 2)[outside].astype(np.float64)).mean(-1)
        means[~np.isfinite(means)] = 1.0
        exponents = np.clip(np.round(np.log2(means) / 2), -MOST_EXPONENT, MOST_EXPONENT)
    some = means > 0
    common = int(np.median(exponents[some])) if some.any() else 0
    common = common if abs(common) <= NEAR_ONE else 0
    relative = np.where(np.abs(exponents - common) > 1, exponents - common, 0)
    return np.where(some, np.exp2(relative), 0).astype(np.float32), common

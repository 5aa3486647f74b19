"""All points of a kernel at once: expressions and reductions over a grid of axes, on NumPy.

Every axis is one dimension of every array. Reads outside a tensor raise, unless a guard keeps them
from happening.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.index import Atom, Axis, Dim, Div, Mod, Poly
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Load, Read, Var, Within
from whet.kernel.integer_attention import MASS, SHARE, IntegerAttention
from whet.kernel.semantics import (
    REDUCTIONS,
    SEMANTICS,
    Array,
    convert,
    identity_of,
    register_dtype,
    reinterpret,
    saturate,
)
from whet.kernel.spec import ACCUMULATOR, Attention, Step
from whet.kernel.tensor import Attend

Leaf = Callable[["Grid", Expr], Array]


class Grid(msgspec.Struct, frozen=True):
    """All points of some axes, and what is known at them.

    Attributes:
        axes: the axes; each has its own dimension in every array.
        dims: values of run-time dimensions.
        read: evaluates ``Load`` and ``Read``.
        names: values of ``Var`` nodes.
        mask: where reads happen; ``None`` means everywhere.
        precise: whether floats are computed in double precision.
    """

    axes: tuple[Axis, ...]
    dims: Mapping[str, int]
    read: Leaf
    names: Mapping[str, Array] = msgspec.field(default_factory=dict)
    mask: Array | None = None
    precise: bool = False

    def value(self, expr: Expr) -> Array:
        """Return an expression at every point, in the register type of its ``dtype``."""
        with np.errstate(all="ignore"):
            found = self._value(expr)
        return found.astype(register_dtype(expr.dtype, precise=self.precise), copy=False)

    def _value(self, expr: Expr) -> Array:
        match expr:
            case Const():
                register = register_dtype(expr.dtype, precise=self.precise)
                return np.asarray(expr.value).astype(register)
            case Var():
                return self.names[expr.name]
            case IndexValue():
                return convert(self.index(expr.index), expr.dtype, precise=self.precise)
            case Load() | Read():
                return self.read(self, expr)
            case Guard():
                return self._guard(expr)
            case Call():
                return self._call(expr)
            case _:
                raise TypeError(f"{type(expr).__name__} has no meaning")

    def _call(self, expr: Call) -> Array:
        args = [self.value(a) for a in expr.args]
        if expr.op == "cast":
            return convert(args[0], expr.dtype, precise=self.precise)
        if expr.op == "saturate":
            return saturate(args[0], expr.dtype)
        if expr.op == "bitcast":
            source = expr.args[0].dtype
            return reinterpret(args[0], source, expr.dtype, precise=self.precise)
        return np.asarray(SEMANTICS[expr.op](*args))

    def _guard(self, expr: Guard) -> Array:
        keep = self.holds(expr.conditions)
        mask = keep if self.mask is None else self.mask & keep
        inner = replace(self, mask=mask)
        return np.where(keep, inner.value(expr.then), self.value(expr.otherwise))

    def holds(self, conditions: tuple[Within, ...]) -> Array:
        """Return where all conditions hold."""
        result = np.asarray(True)
        for condition in conditions:
            index = self.index(condition.index)
            result = result & (index >= 0) & (index < self.index(condition.extent))
        return result

    def index(self, p: Poly) -> Array:
        """Return an index at every point."""
        total = np.asarray(0, np.int64)
        for monomial, c in p.terms:
            term = np.asarray(c, np.int64)
            for atom in monomial:
                term = term * self.atom(atom)
            total = total + term
        return total

    def extent(self, p: Poly) -> int:
        """Return an extent, which is the same at every point."""
        return int(self.index(p))

    def atom(self, atom: Atom) -> Array:
        """Return the value of an atom at every point."""
        if isinstance(atom, Dim):
            return np.asarray(self.dims[atom.name], np.int64)
        if isinstance(atom, Axis):
            position = self.axes.index(atom)
            shape = [1] * len(self.axes)
            shape[position] = -1
            return np.arange(self.extent(atom.extent), dtype=np.int64).reshape(shape)
        if isinstance(atom, Div | Mod):
            divide = np.floor_divide if isinstance(atom, Div) else np.mod
            return np.asarray(divide(self.index(atom.numerator), self.index(atom.denominator)))
        index = convert(self.value(atom.expr), "int64")
        if atom.high is not None:
            index = np.clip(index, 0, self.index(atom.high) - 1)
        return index

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points along every axis."""
        return tuple(self.extent(a.extent) for a in self.axes)

    def run_steps(self, steps: Sequence[Step]) -> Grid:
        """Return the grid after reductions, whose results are constant along their axes."""
        grid = self
        for step in steps:
            result = grid.reduce(step.op, step.axes, grid.value(step.body))
            kept = convert(result, step.dtype, precise=self.precise)
            grid = replace(grid, names={**grid.names, step.name: kept})
        return grid

    def reduce(self, op: str, axes: tuple[Axis, ...], values: Array) -> Array:
        """Combine values along some axes."""
        along = tuple(self.axes.index(a) for a in axes)
        shape = [1] * len(self.axes)
        shape[len(shape) - values.ndim :] = values.shape
        for k in along:
            shape[k] = self.shape[k]
        wide = np.broadcast_to(values, shape)
        neutral = identity_of(op, values.dtype.name)
        with np.errstate(all="ignore"):
            return np.asarray(
                REDUCTIONS[op].reduce(
                    wide, axis=along, keepdims=True, initial=neutral, dtype=values.dtype
                )
            )

    def checked(self, index: Array, extent: int) -> Array:
        """Return an index with masked points moved inside.

        Raises:
            IndexError: a point that is not masked reads outside.
        """
        outside = (index < 0) | (index >= extent)
        read = outside if self.mask is None else outside & self.mask
        if np.any(read) and all(self.shape):
            raise IndexError(f"read outside an extent of {extent}")
        return np.where(outside, 0, index)

    def product(self, a: Expr, b: Expr, axes: tuple[Axis, ...]) -> Array:
        """Return the sum over some axes of ``a * b``."""
        with np.errstate(all="ignore"):
            return self.reduce("sum", axes, widened(self.value(a)) * widened(self.value(b)))

    def attend(self, scores: Scores, key: Axis, v: Expr) -> dict[str, Array]:
        """Return what the body reads: the sum over ``key`` of ``softmax over key (score) * v``."""
        integers = scores.integers
        q, k, values = (self.value(e) for e in (scores.q, scores.k, v))
        if integers is not None:
            flipped = zip((q, k, values), integers.flips, ("uint8", "int8", "int8"), strict=True)
            q, k, values = (_flipped(x, flips).view(kind) for x, flips, kind in flipped)
        with np.errstate(all="ignore"):
            inner = self.reduce("sum", (scores.depth,), widened(q) * widened(k))
        score = replace(self, names={ACCUMULATOR: inner}).value(scores.score)
        share = self._shares(scores, key, score)
        names = {}
        if integers is not None:
            share = widened(replace(self, names={SHARE: share}).value(integers.share))
            names[MASS] = self.reduce("sum", (key,), share)
        with np.errstate(all="ignore"):
            return {ACCUMULATOR: self.reduce("sum", (key,), share * widened(values)), **names}

    def _shares(self, scores: Scores, key: Axis, score: Array) -> Array:
        """Return the softmax over ``key`` of scores."""
        top = self.reduce("max", (key,), score)
        with np.errstate(all="ignore"):
            raised = np.exp(score - top)
            share = raised / self.reduce("sum", (key,), raised)
        if scores.zero_nan:
            share = np.where(np.isnan(share), np.zeros_like(share), share)
        if scores.zero_empty:
            share = np.where(np.isneginf(top), np.zeros_like(share), share)
        return np.asarray(share)

    def without(self, axes: tuple[Axis, ...], values: Array) -> tuple[Grid, Array]:
        """Return the grid of the first axes only, and values that are constant along the others."""
        if values.ndim < len(self.axes):
            values = values.reshape((1,) * (len(self.axes) - values.ndim) + values.shape)
        return replace(self, axes=axes), values.reshape(values.shape[: len(axes)])


def widened(values: Array) -> Array:
    """Return factors as products of them are summed: 8-bit integers in 32 bits."""
    narrow = values.dtype.kind in "iu" and values.itemsize == 1
    return values.astype(np.int32) if narrow else values


def _flipped(values: Array, flips: bool) -> Array:
    """Return bytes with their highest bit flipped, if that is wanted."""
    return np.asarray(values.view(np.uint8) ^ np.uint8(128)) if flips else values


class Scores(msgspec.Struct, frozen=True):
    """What a softmax of attention is taken of: an expression of ``sum over depth of q * k``."""

    q: Expr
    k: Expr
    depth: Axis
    score: Expr
    zero_nan: bool
    zero_empty: bool
    integers: IntegerAttention | None = None


def scores_of(of: Attend | Attention) -> Scores:
    """Return what the softmax of an attention is taken of."""
    return Scores(of.q, of.k, of.depth, of.score, of.zero_nan, of.zero_empty, of.integers)

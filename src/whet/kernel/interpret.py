"""A slow interpreter of tensor equations and kernels on NumPy: the definition that code follows.

Every axis of a kernel is one dimension of a grid, and an expression is evaluated for the whole grid
at once. Reads outside a tensor raise, unless a guard keeps them from happening.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from whet.dtypes import numpy_dtype
from whet.index import Atom, Axis, Dim, Div, Mod, Poly
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Load, Read, Var, Within, walk
from whet.kernel.semantics import (
    REDUCTIONS,
    SEMANTICS,
    Array,
    convert,
    identity_of,
    register_dtype,
)
from whet.kernel.spec import ACCUMULATOR, Contraction, Nest, Step, Store
from whet.kernel.tensor import Definition, Product, Steps, Tensor

Leaf = Callable[["_Grid", Expr], Array]


@dataclass(frozen=True)
class _Grid:
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
    names: Mapping[str, Array] = field(default_factory=dict)
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
            case Call(op="cast"):
                return convert(self.value(expr.args[0]), expr.dtype, precise=self.precise)
            case Call():
                return np.asarray(SEMANTICS[expr.op](*(self.value(a) for a in expr.args)))
            case _:
                raise TypeError(f"{type(expr).__name__} has no meaning")

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
                term = term * self._atom(atom)
            total = total + term
        return total

    def extent(self, p: Poly) -> int:
        """Return an extent, which is the same at every point."""
        return int(self.index(p))

    def _atom(self, atom: Atom) -> Array:
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

    def run_steps(self, steps: Sequence[Step]) -> _Grid:
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
        neutral = identity_of(op, values.dtype)
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


# -- tensors ---------------------------------------------------------------------------------------


def evaluate_tensor(
    tensor: Tensor,
    inputs: Mapping[str, Array],
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> Array:
    """Return the elements of a tensor.

    Args:
        tensor: the tensor.
        inputs: arrays of the input tensors, by name.
        dims: run-time dimensions; by default, what the shapes of the inputs say.
        precise: whether floats are computed and returned in double precision.
    """
    found = dict(dims) if dims is not None else bind_dims(tensor, inputs)
    return _Evaluation(inputs, found, precise).tensor(tensor)


def bind_dims(tensor: Tensor, inputs: Mapping[str, Array]) -> dict[str, int]:
    """Return the run-time dimensions that are a whole extent of an input."""
    dims: dict[str, int] = {}
    for source in _input_tensors(tensor):
        for extent, length in zip(source.shape, inputs[source.name].shape, strict=True):
            atoms = extent.atoms
            if len(atoms) == 1 and extent.terms == (((*atoms,), 1),):
                (dim,) = atoms
                assert isinstance(dim, Dim)
                dims[dim.name] = length
    return dims


def _input_tensors(root: Tensor) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    stack = [root]
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen[id(tensor)] = tensor
        if tensor.definition is not None:
            for e in _expressions(tensor.definition):
                stack.extend(leaf.source for leaf in walk(e) if isinstance(leaf, Load))
    return [t for t in seen.values() if t.definition is None and t.value is None]


def _expressions(definition: Definition) -> list[Expr]:
    anchor = definition.anchor
    if isinstance(anchor, Steps):
        return [definition.body, *(s.body for s in anchor.steps)]
    if isinstance(anchor, Product):
        return [definition.body, anchor.a, anchor.b]
    return [definition.body]


@dataclass(frozen=True, slots=True)
class _Evaluation:
    inputs: Mapping[str, Array]
    dims: Mapping[str, int]
    precise: bool
    memo: dict[int, Array] = field(default_factory=dict)

    def tensor(self, tensor: Tensor) -> Array:
        known = self.memo.get(id(tensor))
        if known is None:
            known = self.memo[id(tensor)] = self._evaluate(tensor)
        return known

    def _evaluate(self, tensor: Tensor) -> Array:
        if tensor.value is not None:
            return self._stored(tensor.value, tensor.dtype)
        if tensor.definition is None:
            return self._stored(np.asarray(self.inputs[tensor.name]), tensor.dtype)
        definition = tensor.definition
        grid = _Grid(_all_axes(definition), self.dims, self._load, precise=self.precise)
        if isinstance(definition.anchor, Product):
            total = _product(grid, definition.anchor)
            grid = replace(grid, names={ACCUMULATOR: total})
        elif definition.anchor is not None:
            grid = grid.run_steps(definition.anchor.steps)
        outer = replace(grid, axes=definition.axes)
        return self._place(tensor, outer, _drop(grid, outer, grid.value(definition.body)))

    def _stored(self, array: Array, dtype: str) -> Array:
        stored = array.astype(numpy_dtype(dtype), copy=False)
        return stored.astype(np.float64) if self.precise and stored.dtype.kind in "fV" else stored

    def _place(self, tensor: Tensor, grid: _Grid, values: Array) -> Array:
        shape = tuple(grid.extent(e) for e in tensor.shape)
        with np.errstate(all="ignore"):
            values = self._stored(np.broadcast_to(values, grid.shape), tensor.dtype)
        definition = tensor.definition
        assert definition is not None
        if not definition.index:
            assert values.shape == shape, f"{tensor.name}: {values.shape} is not {shape}"
            return values
        result = np.zeros(shape, values.dtype)
        where = tuple(np.broadcast_to(grid.index(p), grid.shape) for p in definition.index)
        result[where] = values
        return result

    def _load(self, grid: _Grid, load: Expr) -> Array:
        assert isinstance(load, Load)
        source = self.tensor(load.source)
        places = tuple(
            grid.checked(grid.index(p), extent)
            for p, extent in zip(load.index, source.shape, strict=True)
        )
        if not source.size:
            return np.zeros(np.broadcast_shapes(*(p.shape for p in places)), source.dtype)
        return np.asarray(source[places])


def _all_axes(definition: Definition) -> tuple[Axis, ...]:
    anchor = definition.anchor
    inner: tuple[Axis, ...] = ()
    if isinstance(anchor, Steps):
        inner = tuple(a for step in anchor.steps for a in step.axes)
    elif isinstance(anchor, Product):
        inner = (*anchor.taps, anchor.depth)
    return tuple(dict.fromkeys((*definition.axes, *inner)))


def _drop(grid: _Grid, outer: _Grid, values: Array) -> Array:
    """Remove the reduced axes, along which values are constant."""
    extra = len(grid.axes) - len(outer.axes)
    if values.ndim < len(grid.axes):
        values = values.reshape((1,) * (len(grid.axes) - values.ndim) + values.shape)
    return values.reshape(values.shape[: values.ndim - extra])


def _product(grid: _Grid, anchor: Product) -> Array:
    """Sum products over the depth for all taps at once; a bounded grid is the caller's concern."""
    return _sum_of_products(grid, anchor.a, anchor.b, (*anchor.taps, anchor.depth))


def _sum_of_products(grid: _Grid, a: Expr, b: Expr, axes: tuple[Axis, ...]) -> Array:
    return grid.reduce("sum", axes, grid.value(a) * grid.value(b))


# -- kernels ---------------------------------------------------------------------------------------


def run_nest(
    nest: Nest,
    buffers: Sequence[Array],
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a loop nest on flat buffers, one per parameter."""
    axes = (*nest.axes, *nest.row, *(a for s in nest.steps for a in s.axes))
    read = _reader(buffers, [p.dtype for p in nest.params])
    grid = _Grid(tuple(dict.fromkeys(axes)), dims or {}, read, precise=precise)
    grid = grid.run_steps(nest.steps)
    outer = replace(grid, axes=tuple(dict.fromkeys((*nest.axes, *nest.row))))
    for store in nest.stores:
        _store(outer, store, _drop(grid, outer, grid.value(store.value)), buffers)


def run_contraction(
    kernel: Contraction,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a contraction on flat buffers, one per parameter; ``lanes`` is the vector width."""
    outer_axes = (*kernel.outer, kernel.row, kernel.col)
    inner_axes = (*kernel.taps, kernel.depth)
    read = _reader(buffers, [p.dtype for p in kernel.params])
    grid = _Grid((*outer_axes, *inner_axes), dims or {}, read, precise=precise)
    inside = grid.holds(kernel.bounds)
    a = np.where(inside, replace(grid, mask=inside).value(kernel.a), 0)
    b = _panel_values(grid, kernel, buffers, lanes)
    total = grid.reduce("sum", inner_axes, (a * b).astype(a.dtype, copy=False))
    grid = replace(grid, names={ACCUMULATOR: total})
    outer = replace(grid, axes=outer_axes)
    for store in kernel.stores:
        _store(outer, store, _drop(grid, outer, grid.value(store.value)), buffers)


def _panel_values(grid: _Grid, kernel: Contraction, buffers: Sequence[Array], lanes: int) -> Array:
    panels = kernel.b
    width = kernel.tile.vectors * lanes
    column = grid._atom(kernel.col)
    address = grid.index(panels.base) + column % width
    address = address + column // width * grid.index(panels.panel_stride)
    address = address + grid._atom(kernel.depth) * grid.index(panels.depth_stride)
    for tap, stride in zip(kernel.taps, panels.tap_strides, strict=True):
        address = address + grid._atom(tap) * grid.index(stride)
    dtype = kernel.params[panels.param].dtype
    source = buffers[panels.param]
    register = register_dtype(dtype, precise=grid.precise)
    return np.asarray(source[grid.checked(address, source.size)]).astype(register)


def _reader(buffers: Sequence[Array], dtypes: Sequence[str]) -> Leaf:
    def read(grid: _Grid, expr: Expr) -> Array:
        assert isinstance(expr, Read) and expr.dtype == dtypes[expr.param]
        source = buffers[expr.param]
        return np.asarray(source[grid.checked(grid.index(expr.address), source.size)])

    return read


def _store(grid: _Grid, store: Store, values: Array, buffers: Sequence[Array]) -> None:
    target = buffers[store.param]
    address = np.broadcast_to(grid.checked(grid.index(store.address), target.size), grid.shape)
    with np.errstate(all="ignore"):
        target[address] = np.broadcast_to(values, grid.shape).astype(target.dtype)

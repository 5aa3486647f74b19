"""A slow interpreter of tensor equations on NumPy: the definition that kernels follow."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES, numpy_dtype
from whet.index import Axis, Dim
from whet.kernel.block_formats import dequantized
from whet.kernel.blocks import BlockSum, QuantizedRows
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import Call, Expr, Load, walk
from whet.kernel.filter import Kept
from whet.kernel.grid import Grid, scores_of
from whet.kernel.interpret_blocks import block_product, quantized_rows
from whet.kernel.interpret_paged import paged_attention
from whet.kernel.interpret_recurrence import run_recurrence
from whet.kernel.interpret_selection import run_filter, run_scan, run_sort, run_updates
from whet.kernel.paged import PagedAttend
from whet.kernel.recurrence import Recur
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.semantics import Array
from whet.kernel.sort import Sorted
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor


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
            for e in tensor.definition.expressions():
                stack.extend(leaf.source for leaf in walk(e) if isinstance(leaf, Load))
    return [t for t in seen.values() if t.definition is None and t.value is None]


class _Evaluation(msgspec.Struct, frozen=True):
    inputs: Mapping[str, Array]
    dims: Mapping[str, int]
    precise: bool
    memo: dict[int, Array] = msgspec.field(default_factory=dict)

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
        if isinstance(definition.anchor, PagedAttend):
            return self._stored(self._paged(definition.anchor), tensor.dtype)
        if isinstance(definition.anchor, QuantizedRows):
            return self._rows(definition.anchor)
        axes = _all_axes(definition)
        grid = Grid(axes, self.dims, self._load, precise=self.precise)
        if isinstance(definition.anchor, Recur | Sorted | Kept):
            return self._stored(_run_whole(grid, tensor, definition), tensor.dtype)
        if isinstance(definition.anchor, BlockSum):
            grid = replace(grid, names={ACCUMULATOR: self._blocks(definition.anchor)})
        elif isinstance(definition.anchor, DequantizedSum):
            grid = replace(grid, names={ACCUMULATOR: self._dequantized(definition.anchor)})
        else:
            grid = _run_anchor(grid, definition)
        outer, values = grid.without(definition.axes, grid.value(definition.body))
        result = self._place(tensor, outer, values)
        if isinstance(definition.anchor, Updates):
            result = result.copy()
            run_updates(grid, result, definition.anchor)
        return result

    def _paged(self, anchor: PagedAttend) -> Array:
        """Return an attention over pages; its queries are evaluated at every point first."""
        axes = (*anchor.axes[:2], anchor.depth)
        grid = Grid(axes, self.dims, self._load, precise=self.precise)
        q = np.broadcast_to(grid.value(anchor.q), grid.shape)
        found = [self.tensor(e.source) for e in anchor.expressions()[1:] if isinstance(e, Load)]
        tiles, tables, keys, values, *scales = found
        if scales:
            keys = keys * scales[0][:, :, None, :]
            values = values * scales[1][..., None]
        columns = grid.extent(anchor.axes[2].extent)
        return paged_attention(q, (keys, values), tiles, tables, anchor.weighing, columns)

    def _rows(self, anchor: QuantizedRows) -> Array:
        """Return rows in blocks."""
        axes = (anchor.row, anchor.depth)
        along = (a for step in anchor.steps for a in step.axes)
        every = tuple(dict.fromkeys((*axes, *along)))
        grid = Grid(every, self.dims, self._load, precise=self.precise).run_steps(anchor.steps)
        if anchor.product is not None:
            grid = replace(grid, names={ACCUMULATOR: self._blocks(anchor.product)})
        rows, values = grid.without(axes, grid.value(anchor.x))
        x = np.broadcast_to(values, rows.shape)
        return quantized_rows(x, anchor.zero, anchor.spans)

    def _blocks(self, anchor: BlockSum) -> Array:
        """Return the sums of a product with weights in blocks [row, column]."""
        found = [self.tensor(e.source) for e in anchor.expressions() if isinstance(e, Load)]
        weights = np.concatenate(found[1:])
        return block_product(found[0], weights, anchor.kind)[: self._extent(anchor.row)]

    def _dequantized(self, anchor: DequantizedSum) -> Array:
        """Return the sums of a product of float rows and weights in blocks [row, column]."""
        grid = Grid((anchor.row, anchor.inner), self.dims, self._load, precise=self.precise)
        x = np.broadcast_to(grid.value(anchor.x), grid.shape)
        weights = [self.tensor(w.source) for w in anchor.weights if isinstance(w, Load)]
        whole = dequantized(anchor.kind, np.concatenate(weights))
        return np.asarray(x.astype(np.float64) @ whole.astype(np.float64).T)

    def _extent(self, axis: Axis) -> int:
        return Grid((axis,), self.dims, self._load).extent(axis.extent)

    def _stored(self, array: Array, dtype: str) -> Array:
        as_double = self.precise and DTYPES[dtype].is_float
        return array.astype(np.float64 if as_double else numpy_dtype(dtype), copy=False)

    def _place(self, tensor: Tensor, grid: Grid, values: Array) -> Array:
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

    def _load(self, grid: Grid, load: Expr) -> Array:
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
    elif isinstance(anchor, Attend):
        inner = (anchor.key, anchor.depth)
    return tuple(dict.fromkeys((*definition.axes, *inner)))


def _run_whole(grid: Grid, tensor: Tensor, definition: Definition) -> Array:
    """Return the elements of a tensor whose anchor gives all of them."""
    anchor = definition.anchor
    if isinstance(anchor, Recur):
        return run_recurrence(grid, tensor, anchor)
    if isinstance(anchor, Sorted):
        return run_sort(grid, definition, anchor)
    assert isinstance(anchor, Kept), f"{type(anchor).__name__} has no meaning"
    return run_filter(grid, definition, anchor)


def _run_anchor(grid: Grid, definition: Definition) -> Grid:
    """Return the grid with the values that the body reads as ``Var``."""
    anchor = definition.anchor
    if anchor is None or isinstance(anchor, Updates):
        return grid
    if isinstance(anchor, Steps):
        return grid.run_steps(anchor.steps)
    if isinstance(anchor, Product):
        b = anchor.b if anchor.gate is None else _gated(anchor.b, anchor.gate)
        total = grid.product(anchor.a, b, (*anchor.taps, anchor.depth))
    elif isinstance(anchor, Prefix):
        total = run_scan(grid, anchor)
    else:
        assert isinstance(anchor, Attend), f"{type(anchor).__name__} has no meaning"
        scores = scores_of(anchor)
        return replace(grid, names=grid.attend(scores, anchor.key, anchor.v))
    return replace(grid, names={ACCUMULATOR: total})


def _gated(weights: Expr, gate: Expr) -> Expr:
    return Call("mul", (weights, gate), weights.dtype)

"""A slow interpreter of tensor equations and kernels on NumPy: the definition that code follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES, numpy_dtype
from whet.index import Axis, Dim, as_poly, product, var
from whet.kernel.block_formats import dequantized
from whet.kernel.blocks import BlockSum, QuantizedRows
from whet.kernel.chain import Chain
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import Call, Expr, Load, Read, Within, walk
from whet.kernel.filter import Kept
from whet.kernel.grid import Grid, Leaf, Scores, widened
from whet.kernel.interpret_blocks import block_product, quantized_rows
from whet.kernel.interpret_paged import paged_attention
from whet.kernel.interpret_recurrence import run_recurrence
from whet.kernel.interpret_selection import run_filter, run_scan, run_sort, run_updates
from whet.kernel.paged import PagedAttend
from whet.kernel.pooled import Pooled
from whet.kernel.recurrence import Recur
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.semantics import Array, register_dtype
from whet.kernel.sort import Sorted
from whet.kernel.spec import ACCUMULATOR, Attention, Contraction, Nest, Store
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor

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
        scores = _scores(anchor)
        return replace(grid, names=grid.attend(scores, anchor.key, anchor.v))
    return replace(grid, names={ACCUMULATOR: total})


def _gated(weights: Expr, gate: Expr) -> Expr:
    return Call("mul", (weights, gate), weights.dtype)


def _scores(of: Attend | Attention) -> Scores:
    return Scores(of.q, of.k, of.depth, of.score, of.zero_nan, of.zero_empty, of.integers)


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
    grid = Grid(tuple(dict.fromkeys(axes)), dims or {}, read, precise=precise)
    grid = grid.run_steps(nest.steps)
    outer = tuple(dict.fromkeys((*nest.axes, *nest.row)))
    _run_stores(grid, outer, nest.stores, buffers)


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
    dot = kernel.dot
    inner_axes = (*kernel.taps, kernel.depth, *((dot.axis,) if dot is not None else ()))
    read = _reader(buffers, [p.dtype for p in kernel.params])
    grid = Grid((*outer_axes, *inner_axes), dims or {}, read, precise=precise)
    inside = grid.holds((*kernel.bounds, *kernel.edges, *_dot_bounds(kernel)))
    read_a = _broadcast_operand(grid, kernel, inside)
    if dot is not None and dot.flips:
        read_a = (read_a ^ np.int8(-128)).view(np.uint8)
    a = widened(np.where(inside, read_a, np.zeros_like(read_a)))
    b = widened(_panel_values(grid, kernel, buffers, lanes))
    if kernel.gate is not None:
        b = b * grid.value(kernel.gate)
    with np.errstate(all="ignore"):
        terms = (a * b).astype(a.dtype, copy=False)
    total = grid.reduce("sum", inner_axes, terms)
    grid = replace(grid, names={ACCUMULATOR: total})
    _run_stores(grid, outer_axes, kernel.stores, buffers)


def _broadcast_operand(grid: Grid, kernel: Contraction, inside: Array) -> Array:
    """Return what a contraction broadcasts, anything where it is not inside."""
    if kernel.spread:
        group = var(kernel.col) // kernel.spread * kernel.spread
        lanes = replace(kernel.a, address=kernel.a.address + group)
        return replace(grid, mask=inside).value(lanes)
    if kernel.second is None:
        return replace(grid, mask=inside).value(kernel.a)
    first = grid.holds((Within(var(kernel.depth), as_poly(kernel.second.start)),))
    below = replace(grid, mask=inside & first).value(kernel.a)
    behind = replace(grid, mask=inside & ~first).value(kernel.second.a)
    return np.where(first, below, behind)


def run_chain(
    kernel: Chain,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a chain on flat buffers, one per parameter: its parts, one after the other."""
    first = kernel.parts[0]
    rows = product(a.extent for a in (*first.outer, first.row)).evaluate(dims or {})
    inner = [
        np.zeros(rows * i.stride, np.float64 if precise else numpy_dtype(i.dtype))
        for i in kernel.inner
    ]
    for part in kernel.parts:
        run_contraction(part, [*buffers, *inner], lanes, dims, precise=precise)


def run_pooled(
    kernel: Pooled,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a product and the windows over it on flat buffers, one per parameter."""
    dtype = np.float64 if precise else numpy_dtype(kernel.dtype)
    result = np.zeros(kernel.result_elements.evaluate(dims or {}), dtype)
    run_contraction(kernel.product, [*buffers, result], lanes, dims, precise=precise)
    run_nest(kernel.window, [*buffers, result], dims, precise=precise)


def run_attention(
    kernel: Attention,
    buffers: Sequence[Array],
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run attention on flat buffers, one per parameter."""
    outer_axes = (*kernel.outer, kernel.row, kernel.col)
    axes = (*outer_axes, kernel.key, kernel.depth)
    read = _reader(buffers, [p.dtype for p in kernel.params])
    grid = Grid(axes, dims or {}, read, precise=precise)
    scores = _scores(kernel)
    grid = replace(grid, names=grid.attend(scores, kernel.key, kernel.v))
    _run_stores(grid, outer_axes, kernel.stores, buffers)


def _dot_bounds(kernel: Contraction) -> tuple[Within, ...]:
    """Return the condition under which a depth value of a lane exists."""
    if kernel.dot is None:
        return ()
    place = var(kernel.depth) * kernel.dot.size + var(kernel.dot.axis)
    return (Within(place, kernel.dot.extent),)


def _panel_values(grid: Grid, kernel: Contraction, buffers: Sequence[Array], lanes: int) -> Array:
    panels = kernel.b
    width = kernel.tile.vectors * lanes
    column = grid.atom(kernel.col)
    lane = column % width
    if kernel.dot is not None:
        lane = lane * kernel.dot.size + grid.atom(kernel.dot.axis)
    address = grid.index(panels.base) + lane
    address = address + column // width * grid.index(panels.panel_stride)
    address = address + grid.atom(kernel.depth) * grid.index(panels.depth_stride)
    for tap, stride in zip(kernel.taps, panels.tap_strides, strict=True):
        address = address + grid.atom(tap) * grid.index(stride)
    dtype = kernel.params[panels.param].dtype
    source = buffers[panels.param]
    register = register_dtype(dtype, precise=grid.precise)
    return np.asarray(source[grid.checked(address, source.size)]).astype(register)


def _reader(buffers: Sequence[Array], dtypes: Sequence[str]) -> Leaf:
    def read(grid: Grid, expr: Expr) -> Array:
        assert isinstance(expr, Read) and expr.dtype == dtypes[expr.param]
        source = buffers[expr.param]
        return np.asarray(source[grid.checked(grid.index(expr.address), source.size)])

    return read


def _run_stores(
    grid: Grid, axes: tuple[Axis, ...], stores: Sequence[Store], buffers: Sequence[Array]
) -> None:
    for store in stores:
        outer, values = grid.without(axes, grid.value(store.value))
        target = buffers[store.param]
        address = outer.checked(outer.index(store.address), target.size)
        with np.errstate(all="ignore"):
            wide = np.broadcast_to(values, outer.shape).astype(target.dtype)
        target[np.broadcast_to(address, outer.shape)] = wide

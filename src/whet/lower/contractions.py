"""Products to contractions: roles of axes, packed weights, bounds and edges."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.index import ONE, ZERO, Atom, Axis, IndexLike, Poly, as_poly, product, var
from whet.kernel.expr import Call, Const, Expr, Guard, Load, Read, Within
from whet.kernel.schedules import Chooser
from whet.kernel.spec import Contraction, Dot, Panels, Second, Store
from whet.kernel.tensor import Definition, Product
from whet.lower.line_tiles import Rows, choose_rows
from whet.lower.loops import by_stride, indices_of, merge_axes
from whet.lower.packing import product_type, split_panels, strided_view
from whet.lower.spread_groups import own_weights, spread_depth, spread_of
from whet.lower.storage import (
    Params,
    Root,
    Storage,
    Storages,
    address_of,
    magnitude,
    packed_content,
    row_major,
    to_reads,
)
from whet.program.records import BufferKind
from whet.target import Target

MIN_EDGE_DEPTH = 12

ENOUGH_ROWS = 32
FEW_ROWS = 8
"""Up to so many rows the multiply-adds of large weights wait for memory."""


class Operand(msgspec.Struct, frozen=True):
    """The broadcast operand of a product, taken apart.

    Attributes:
        load: what is read.
        conditions: where it is not zero.
        flips: whether the highest bit of 8-bit integers is flipped.
        second: what is read instead from some depth on.
    """

    load: Load
    conditions: tuple[Within, ...]
    flips: bool = False
    second: tuple[int, Load] | None = None

    @property
    def loads(self) -> list[Load]:
        """All that is read."""
        return [self.load] if self.second is None else [self.load, self.second[1]]


def operand_of(a: Expr, depth: Axis | None = None) -> Operand | None:
    """Return the operand if it is a load, perhaps guarded with zero; else ``None``.

    With a depth, it may also be two loads, of which the second is read from some depth on.
    """
    if isinstance(a, Load):
        return Operand(a, ())
    flipped = _flipped(a)
    if flipped is not None:
        return Operand(flipped, (), flips=True)
    if not isinstance(a, Guard) or not isinstance(a.then, Load):
        return None
    if getattr(a.otherwise, "value", 1) == 0:
        return Operand(a.then, a.conditions)
    return None if depth is None else _two_operands(a, depth)


def one_then_other(first: Load, second: Load, depth: Axis, start: int) -> Guard:
    """Return an operand that is the first load below a depth, the second one from there on."""
    rest = Within(var(depth) - start, depth.extent - start)
    behind = Guard((rest,), second, Const(0.0, second.dtype), second.dtype)
    return Guard((Within(var(depth), as_poly(start)),), first, behind, first.dtype)


def _two_operands(a: Guard, depth: Axis) -> Operand | None:
    """Return the operands of ``one_then_other``."""
    first, behind = a.then, a.otherwise
    if not isinstance(behind, Guard) or len(a.conditions) != 1:
        return None
    second, start = behind.then, a.conditions[0].extent.constant
    if not isinstance(first, Load) or not isinstance(second, Load) or not start:
        return None
    found = a == one_then_other(first, second, depth, start) and depth.extent.constant is not None
    return Operand(first, (), second=(start, second)) if found else None


def _flipped(a: Expr) -> Load | None:
    """Return what is read if signed integers become unsigned ones that are 128 more."""
    if not isinstance(a, Call) or a.op != "bitcast" or a.dtype != "uint8":
        return None
    inner = a.args[0]
    if not isinstance(inner, Call) or inner.op != "xor" or not isinstance(inner.args[0], Load):
        return None
    return inner.args[0] if inner.args[1] == Const(-128, "int8") else None


def tiled_row(anchor: Product, address: Poly) -> Axis | None:
    """Return the axis that register tiles run along, if a result is stored at an address."""
    free = [x for x in anchor.rows if not anchor.b.depends_on(x) and x.extent != 1]
    return by_stride(free, address)[-1] if free else None


def build_contraction(
    definition: Definition, storage: Storage, storages: Storages, target: Target, choose: Chooser
) -> tuple[Contraction, Params]:
    """Return the kernel that computes a product into storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Product)
    operand = operand_of(anchor.a, anchor.depth)
    assert operand is not None, "products are legal here"
    params = Params()
    output = params.write(storage.root)
    store = Store(
        output,
        address_of(definition.position, storage),
        to_reads(definition.body, storages, params),
    )
    scalars = _scalars_of(anchor, operand, storages, params)
    rows, row, substitution = _shape_rows(anchor, store, scalars.guarded(operand), storages)
    store = _carry(store, substitution)
    if _stays_near(anchor, target):
        rows = by_stride(rows, store.address)
    scalars = scalars.moved(substitution)
    a, second = scalars.a, scalars.second
    conditions = tuple(c.substitute(substitution) for c in operand.conditions)
    edges = tuple(c for c in conditions if row in c.index.atoms)
    bounds = tuple(c for c in conditions if c not in edges)
    fixed = _weight_axes(anchor, storages, substitution) | scalars.gate_axes
    free = not conditions and not fixed & {*rows[-1:]}
    overlap = anchor.dot is not None and _rows_overlap(a, row, anchor.dot)
    plain = second is None and not overlap and not conditions
    shape = Rows(rows, row, edges=bool(edges), whole=free, plain=plain)
    tile, lines = choose_rows(anchor, shape, target, choose)
    if overlap:
        tile = replace(tile, unroll=1, prefetch=-(-tile.prefetch // tile.unroll))
    if second is not None and second.start % tile.unroll:
        tile = replace(tile, block=0)
    spread = spread_of(anchor, a, target)
    depth = spread_depth(anchor, spread)
    if spread:
        a = replace(a, address=a.address.substitute({anchor.depth: var(depth)}))
        tile = replace(tile, unroll=spread, block=0, prefetch=0)
    zeros = params.number(_zeros(anchor.depth, a.dtype)) if edges else -1
    lanes = _Lanes(tile.vectors * target.lanes, spread)
    panels = _panels(anchor, lanes, storages, params, target, substitution)
    kernel = Contraction(
        params.records(),
        rows,
        row,
        anchor.col,
        anchor.taps,
        depth,
        a,
        bounds,
        panels,
        (store,),
        tile,
        edges,
        zeros,
        anchor.dot,
        lines=lines,
        second=second,
        spread=spread,
        gate=scalars.gate,
    )
    return kernel, params


class _Scalars(msgspec.Struct, frozen=True):
    """What a contraction reads one element at a time.

    Attributes:
        a: the broadcast operand.
        second: what is read instead from some depth on.
        gate: what each depth value is multiplied by.
    """

    a: Read
    second: Second | None
    gate: Read | None

    def guarded(self, operand: Operand) -> list[Expr]:
        """Return all that is read, under the conditions of the operand."""
        a, conditions = self.a, operand.conditions
        found: list[Expr] = [Guard(conditions, a, a, a.dtype) if conditions else a]
        if self.second is not None:
            found.append(self.second.a)
        return found if self.gate is None else [*found, self.gate]

    def moved(self, axes: dict[Atom, IndexLike]) -> _Scalars:
        """Return the same reads over other axes."""
        second, gate = self.second, self.gate
        return _Scalars(
            _moved(self.a, axes),
            None if second is None else replace(second, a=_moved(second.a, axes)),
            None if gate is None else _moved(gate, axes),
        )

    @property
    def gate_axes(self) -> set[Atom]:
        """What the place of the gate depends on."""
        return set() if self.gate is None else set(self.gate.address.atoms)


def _scalars_of(anchor: Product, operand: Operand, storages: Storages, params: Params) -> _Scalars:
    a, second, gate = _read_of(operand.load, storages, params), None, None
    if operand.second is not None:
        second = Second(operand.second[0], _read_of(operand.second[1], storages, params))
    if isinstance(anchor.gate, Load):
        gate = _read_of(anchor.gate, storages, params)
    return _Scalars(a, second, gate)


def _read_of(load: Load, storages: Storages, params: Params) -> Read:
    storage = storages[id(load.source)]
    return Read(params.number(storage.root), address_of(load.index, storage), load.dtype)


def _moved(read: Read, substitution: dict[Atom, IndexLike]) -> Read:
    return Read(read.param, read.address.substitute(substitution), read.dtype)


def _rows_overlap(a: Read, row: Axis, dot: Dot) -> bool:
    """Whether neighbouring rows read the same elements at other depths.

    LLVM would load those once for several depth steps, run out of registers and spill.
    """
    stride, extent = a.address.coefficient(row).constant, dot.extent.constant
    return stride is not None and extent is not None and 0 < stride < extent


def _stays_near(anchor: Product, target: Target) -> bool:
    """Whether the weights of all groups of a convolution stay in the second cache.

    Then groups run inside of rows: pixels come in whole lines one behind the other, and results
    are finished in order. Else each group reads its weights once.
    """
    groups = [a.extent for a in anchor.rows if anchor.b.depends_on(a)]
    extents = (*groups, *(t.extent for t in anchor.taps), anchor.depth.extent, anchor.col.extent)
    count = product(extents).constant
    return bool(groups and anchor.taps) and count is not None and 4 * count <= target.l2_bytes // 2


def _carry(store: Store, substitution: dict[Atom, IndexLike]) -> Store:
    return Store(
        store.param, store.address.substitute(substitution), store.value.substitute(substitution)
    )


def _zeros(depth: Axis, dtype: str) -> Root:
    count = depth.extent.constant
    assert count is not None, "edges need a static depth"
    return Root(
        "zeros", BufferKind.CONSTANT, dtype, as_poly(count), lambda: np.zeros(count, np.uint8)
    )


def _shape_rows(
    anchor: Product, store: Store, operands: list[Expr], storages: Storages
) -> tuple[tuple[Axis, ...], Axis, dict[Atom, IndexLike]]:
    """Sort and merge row axes; returns outer axes, the tiled axis and the substitution."""
    b_address = _b_address(anchor, storages)
    factors = [anchor.b] if anchor.gate is None else [anchor.b, anchor.gate]
    shared = [x for x in anchor.rows if any(f.depends_on(x) for f in factors)]
    free = [x for x in anchor.rows if x not in shared]
    b_read = Read(store.param, b_address, anchor.b.dtype)
    indices = indices_of([*operands, b_read], [store])
    outer, first = merge_axes(by_stride(shared, store.address), indices)
    open_axes, known_axes = _split_known(by_stride(free, store.address))
    inner, second = merge_axes(open_axes, indices)
    tiled, third = merge_axes(known_axes, indices)
    inner = (*inner, *tiled)
    row = inner[-1] if inner else Axis("row", ONE)
    return (*outer, *inner[:-1]), row, {**first, **second, **third}


def _split_known(axes: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """Split off the innermost axes of known size, if they give enough rows for whole tiles.

    Joined with a batch of unknown size, they would be cut into tiles with a rest at run time.
    """
    unknown = [k for k, axis in enumerate(axes) if axis.extent.constant is None]
    start = unknown[-1] + 1 if unknown else 0
    if magnitude(product(a.extent for a in axes[start:])) < ENOUGH_ROWS:
        start = 0
    return tuple(axes[:start]), tuple(axes[start:])


def _b_address(anchor: Product, storages: Storages) -> Poly:
    assert isinstance(anchor.b, Load), "products are legal here"
    return address_of(anchor.b.index, storages[id(anchor.b.source)])


def _weight_axes(
    anchor: Product, storages: Storages, substitution: dict[Atom, IndexLike]
) -> set[Atom]:
    """Return what the place of the weights depends on."""
    return set(_b_address(anchor, storages).substitute(substitution).atoms)


class _Lanes(msgspec.Struct, frozen=True):
    """The lanes of a panel; where they are of several groups, the channels of one, else 0."""

    width: int
    spread: int


def _panels(
    anchor: Product,
    lanes: _Lanes,
    storages: Storages,
    params: Params,
    target: Target,
    substitution: dict[Atom, IndexLike],
) -> Panels:
    """Return how the second operand lies.

    A constant is packed as [batch..., panels, taps..., depth, width], what shares a lane behind it.
    """
    assert isinstance(anchor.b, Load)
    source = anchor.b.source
    width, spread = lanes.width, lanes.spread
    dot = () if anchor.dot is None else (anchor.dot.axis,)
    step = 1 if anchor.dot is None else anchor.dot.size
    address = _b_address(anchor, storages)
    if source.value is None:
        inside = (anchor.col, anchor.depth, *anchor.taps, *dot)
        rest = address.substitute(dict.fromkeys(inside, 0))
        return Panels(
            params.number(storages[id(source)].root),
            rest.substitute(substitution),
            as_poly(width * step),
            address.coefficient(anchor.depth),
            tuple(address.coefficient(t) for t in anchor.taps),
            padded=False,
        )
    batch = tuple(x for x in anchor.rows if x in address.atoms)
    value, col = source.value, anchor.col.extent.constant
    assert col is not None, "weights are static"
    reduced = (*anchor.taps, spread_depth(anchor, spread))
    inner = (*(x.extent for x in reduced), as_poly(width * step))
    shape = (*(x.extent for x in batch), as_poly(-(-col // width)), *inner)

    def pack() -> np.ndarray:
        axes = (*batch, *anchor.taps, anchor.depth, *dot, anchor.col)
        panels = np.moveaxis(
            split_panels(strided_view(value, address, axes), width), -2, len(batch)
        )
        if spread:
            return own_weights(panels, spread)
        return np.swapaxes(panels, -1, -2) if dot else panels

    kind = _packed_type(anchor, value, target)
    name, content = f"{source.name}.packed", packed_content(source, kind)
    root = Root(name, BufferKind.CONSTANT, kind, product(shape), pack, content)
    strides = row_major(shape)
    count = len(batch)
    base = ZERO
    for axis, stride in zip(batch, strides, strict=False):
        base = base + var(axis) * stride
    return Panels(
        params.number(root),
        base.substitute(substitution),
        strides[count],
        as_poly(width * step),
        strides[count + 1 : count + 1 + len(anchor.taps)],
        padded=True,
    )


def _packed_type(anchor: Product, value: np.ndarray, target: Target) -> str:
    """Return the type of packed weights: half precision stays where memory sets the time.

    Each weight is then converted once for a few rows, and read from memory at half the cost. It
    also stays where it is multiplied as it is.
    """
    if anchor.dot is not None:
        return value.dtype.name
    rows = product(x.extent for x in anchor.rows if not anchor.b.depends_on(x)).constant
    if rows is not None and rows <= FEW_ROWS and value.nbytes > target.l2_bytes:
        return value.dtype.name
    return product_type(value).name

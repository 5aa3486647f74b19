"""Few rows times quantised weights: the weights are read as they are and dequantised in registers.

With one row to a few, as when a language model writes, a product takes as long as its weights take
to come from memory. Such a product becomes a reduction with lanes along the columns, and what its
weights are computed from, numbers of up to 8 bits, scales and zero points, lies in the order in
which it is read: panels of ``PANEL`` columns.
"""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES, numpy_dtype
from whet.index import Atom, Axis, Div, IndexLike, Poly, as_poly, product, var
from whet.kernel.expr import Expr, Load, rewrite_leaves, walk
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Product, Steps, Tensor
from whet.lower.equations import Equations
from whet.lower.fuse import work
from whet.lower.uses import inline_at
from whet.ops.build import binary

FEW_ROWS = 4
PANEL = 64
LANES = 16
MOST_WORK = 12
"""Operations on each weight that memory still waits for."""


def stream_weights(equations: Equations) -> int:
    """Turn products of few rows and quantised constants into reductions; return how many."""
    count = 0
    result: list[Tensor] = []
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is not None and isinstance(definition.anchor, Product):
            panels = _Panels(definition.anchor.col, definition.anchor.depth)
            anchor = _streamed(definition.anchor, panels)
            if anchor is not None:
                tensor.definition = replace(definition, anchor=anchor)
                result.extend(panels.made.values())
                count += 1
        result.append(tensor)
    equations.tensors[:] = result
    return count


def _streamed(anchor: Product, panels: _Panels) -> Steps | None:
    """Return the sums as reductions over numbers in panels, or ``None``."""
    rows = product(a.extent for a in anchor.rows).constant
    cols, depth = anchor.col.extent.constant, anchor.depth.extent.constant
    if rows is None or not 0 < rows <= FEW_ROWS or anchor.taps or anchor.a.dtype != "float32":
        return None
    if not cols or not depth or cols % PANEL or not isinstance(anchor.a, Load):
        return None
    if any(anchor.b.depends_on(r) for r in anchor.rows):
        return None
    weight = _from_constants(anchor.b)
    if weight is None or work(weight) > MOST_WORK:
        return None
    loads = [e for e in walk(weight) if isinstance(e, Load)]
    if not any(panels.is_small(e) for e in loads) or not all(panels.fits(e) for e in loads):
        return None
    body = binary("mul", anchor.a, rewrite_leaves(weight, panels.rewrite))
    return Steps((Step(ACCUMULATOR, "sum", (anchor.depth,), body, anchor.a.dtype),))


def _from_constants(expr: Expr) -> Expr | None:
    """Return an expression of constants alone, everything in between inlined."""
    while True:
        open_loads = [e for e in walk(expr) if isinstance(e, Load) and e.source.value is None]
        if not open_loads:
            return expr
        for load in open_loads:
            inner = load.source.definition
            if inner is None or inner.anchor is not None or inner.index:
                return None

        def inlined(e: Expr) -> Expr:
            return inline_at(e) if isinstance(e, Load) and e.source.value is None else e

        expr = rewrite_leaves(expr, inlined)
        if work(expr) > MOST_WORK:
            return None


class _Panels(msgspec.Struct, frozen=True):
    """How constants over columns and depth are laid out.

    Attributes:
        col: the column axis.
        depth: the depth axis.
        made: what they became, by how they were read.
    """

    col: Axis
    depth: Axis
    made: dict[Expr, Tensor] = msgspec.field(default_factory=dict)

    def is_small(self, load: Load) -> bool:
        """Whether a load reads one number of up to a byte for each weight."""
        small = DTYPES[load.dtype].size == 1 and load.dtype != "bool"
        return small and self._group(load) == 1

    def fits(self, load: Load) -> bool:
        """Whether a load depends on nothing but the column and the depth, or blocks of it."""
        axes = {a for p in load.index for a in p.atoms if isinstance(a, Axis)}
        divided = {
            a
            for p in load.index
            for atom in p.atoms
            if isinstance(atom, Div)
            for a in atom.numerator.atoms
        }
        known = axes <= {self.col, self.depth} and divided <= {self.depth}
        return load.source.value is not None and known and self._group(load) is not None

    def _group(self, load: Load) -> int | None:
        """Return how many depth values share an element: 0 for all, ``None`` if it varies."""
        sizes: set[int] = set()
        for p in load.index:
            for atom in (a for monomial, _ in p.terms for a in monomial):
                if atom == self.depth:
                    sizes.add(1)
                elif isinstance(atom, Div) and self.depth in atom.numerator.atoms:
                    plain = atom.numerator == var(self.depth)
                    sizes.add((atom.denominator.constant or -1) if plain else -1)
                elif not isinstance(atom, Axis):
                    sizes.add(-1)
        extent = self.depth.extent.constant or 0
        if not sizes:
            return 0
        (size, *rest) = sizes
        return size if not rest and size > 0 and extent % size == 0 else None

    def rewrite(self, e: Expr) -> Expr:
        """Return a load from a constant in panels."""
        if not isinstance(e, Load) or not any(p.atoms for p in e.index):
            return e
        group = self._group(e) or 0
        if e not in self.made:
            self.made[e] = self._packed(e, group)
        col, step = var(self.col), self._step(group)
        return self.made[e].at(col // PANEL, step, col // LANES % (PANEL // LANES), col % LANES)

    def _packed(self, e: Load, group: int) -> Tensor:
        extent = self.depth.extent.constant or 1
        steps = extent // group if group else 1
        values = self._gathered(e, steps, group)
        across = (values.shape[0] // PANEL, PANEL // LANES, LANES)
        panels = values.T.reshape(steps, *across).transpose(1, 0, 2, 3)
        shape = tuple(as_poly(n) for n in panels.shape)
        dtype = self._stored(e.dtype, group)
        packed = np.ascontiguousarray(panels).astype(numpy_dtype(dtype))
        name, known = f"{e.source.name}.panels", e.source.shape
        return Tensor(name, shape, dtype, value=packed, model_shape=known)

    def _stored(self, dtype: str, group: int) -> str:
        """Return the type that takes the fewest instructions to read: bytes, or 32 bits of few."""
        d = DTYPES[dtype]
        if d.kind not in "iu" or d.size != 1:
            return dtype
        if group != 1:
            return "int32"
        return "uint8" if d.kind == "u" else "int8"

    def _step(self, group: int) -> Poly:
        if not group:
            return as_poly(0)
        return var(self.depth) // group if group > 1 else var(self.depth)

    def _gathered(self, load: Load, steps: int, group: int) -> np.ndarray:
        """Return the elements that columns and steps read, one row a column."""
        value = load.source.value
        assert value is not None, "weights are constant"
        col, step = Axis("col", self.col.extent), Axis("step", as_poly(steps))
        places: dict[Atom, IndexLike] = {self.col: var(col), self.depth: var(step) * group}
        shape = (self.col.extent.constant or 0, steps)
        down, right = np.ogrid[: shape[0], : shape[1]]
        index = tuple(_numbers(p.substitute(places), {col: down, step: right}) for p in load.index)
        return np.broadcast_to(value[index], shape)


def _numbers(p: Poly, grid: dict[Axis, np.ndarray]) -> np.ndarray:
    """Return an affine index at every point of a grid."""
    rest = p.substitute(dict.fromkeys(grid, 0)).constant
    assert rest is not None, "indices are affine here"
    total = np.asarray(rest)
    for axis, places in grid.items():
        total = total + places * (p.coefficient(axis).constant or 0)
    return total

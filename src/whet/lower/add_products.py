"""Two products that are added up become one over both depths, as a shortcut and a last layer.

``x U + y V = [x, y] [U; V]``: the weights lie one below the other, rows are read from ``x`` up to
the depth of ``U`` and from ``y`` behind it. One of the two results is then neither written nor read
again, and sums end once instead of twice. They are added up in another order: level 3 only.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES
from whet.index import Atom, Axis, IndexLike, Poly, as_poly, product, var
from whet.kernel.expr import Call, Expr, Load, Var, walk
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Product, Tensor
from whet.lower.contractions import one_then_other
from whet.lower.equations import Equations
from whet.lower.packing import strided_view
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.storage import magnitude, row_major
from whet.lower.uses import index_atoms, is_affine, loads, sources
from whet.ops.node import constant
from whet.target import Target

NAME = "add_products"
DTYPE = "float32"
SUM = Var(ACCUMULATOR, DTYPE)


def add_products(equations: Equations, rewrites: Rewrites, target: Target) -> Equations:
    """Make one product of two that are added up, where weights are constant and it is faster."""
    readers = count_readers(equations)
    result: list[Tensor] = []
    for tensor in equations.tensors:
        pair = _pair_of(tensor, readers)
        if pair is not None and _pays(pair, target) and rewrites.take(NAME):
            tensor.definition, weights = _joined(pair)
            merge_origins(pair.source, tensor)
            result.append(weights)
        result.append(tensor)
    equations.tensors[:] = result
    return needed_equations(equations)


class _Factors(msgspec.Struct, frozen=True):
    """A product of floats without taps, its weights constant and the same for all rows.

    Attributes:
        anchor: the product.
        a: what is read for each row.
        b: the weights.
        depth: how many are added up.
    """

    anchor: Product
    a: Load
    b: Load
    depth: int


class _Pair(msgspec.Struct, frozen=True):
    """A product, and another one that is added to it.

    Attributes:
        definition: of the tensor that both add up to.
        own: its product.
        other: the other product, with the rows and columns of this one.
        source: the other product's tensor.
        body: the tensor's value, of the sum of both products.
    """

    definition: Definition
    own: _Factors
    other: _Factors
    source: Tensor
    body: Expr


def _pays(pair: _Pair, target: Target) -> bool:
    """Whether both products are faster as one.

    Where pixels are left out, register tiles end with the lines of the image, for the other product
    too. That is worth a result that would not stay near: for ResNet-50's, of 1.6, 0.8 and 0.4 MB,
    1223, 1192 and 1188 us as two and 1175, 1138 and 1221 as one (two threads of a Cascade Lake).
    """
    whole = all(abs(c) <= 1 for f in (pair.own, pair.other) for c in _steps(f.a, pair.own.anchor))
    size = magnitude(_count(pair.definition)) * DTYPES[DTYPE].size
    return whole or size > target.l2_bytes // 2


def _steps(load: Load, anchor: Product) -> Iterator[int]:
    """Yield how far a load moves with each row, where that is known."""
    for p in load.index:
        yield from (p.coefficient(r).constant or 0 for r in anchor.rows if p.is_affine_in(r))


def _pair_of(tensor: Tensor, readers: Readers) -> _Pair | None:
    """Return the product that a tensor adds to its own, if there is one."""
    definition = tensor.definition
    own = None if definition is None else _factors(definition.anchor)
    if definition is None or own is None:
        return None
    for source in sources(definition):
        pair = _pair(definition, own, source) if readers.single(source) else None
        if pair is not None:
            return pair
    return None


def _factors(anchor: object) -> _Factors | None:
    """Return a product taken apart, if it can be joined with another one."""
    if not isinstance(anchor, Product) or anchor.dot is not None or anchor.merged != 1:
        return None
    if any(t.extent != 1 for t in anchor.taps):
        return None
    at_tap: dict[Atom, IndexLike] = dict.fromkeys(anchor.taps, 0)
    a, b, depth = anchor.a, anchor.b.substitute(at_tap), anchor.depth.extent.constant
    a = a.substitute(at_tap)
    if not isinstance(a, Load) or not isinstance(b, Load) or not depth:
        return None
    if (a.dtype, b.dtype) != (DTYPE, DTYPE) or b.source.value is None:
        return None
    if not is_affine(a) or not is_affine(b) or index_atoms(b) - {anchor.col, anchor.depth}:
        return None
    return _Factors(anchor, a, b, depth)


def _pair(definition: Definition, own: _Factors, source: Tensor) -> _Pair | None:
    """Return a tensor and a source as products that are added up, if they are that."""
    inner = source.definition
    other = None if inner is None else _factors(inner.anchor)
    found = [e for e in loads(definition) if e.source is source]
    if inner is None or other is None or len(found) != 1:
        return None
    if _count(inner) != _count(definition):
        return None
    (load,) = found
    points = _points(own.anchor, other.anchor, inner, load)
    if points is None:
        return None
    body = _added(definition.body, load, inner.body.substitute(points))
    a = other.a.substitute(points)
    if body is None or not isinstance(a, Load):
        return None
    return _Pair(definition, own, replace(other, a=a), source, body)


def _count(definition: Definition) -> Poly:
    return product(a.extent for a in definition.axes)


def _points(
    own: Product, other: Product, inner: Definition, load: Load
) -> dict[Atom, IndexLike] | None:
    """Return the axes of a product where another one reads it, if that is at its own elements."""
    read = dict(zip(inner.position, load.index, strict=True))
    points: dict[Atom, IndexLike] = {}
    for axis in inner.axes:
        index = read.get(var(axis))
        wanted = (own.col,) if axis == other.col else own.rows
        moves = any(index == var(a) and a.extent == axis.extent for a in wanted)
        if index is None or not (moves or axis.extent == 1):
            return None
        points[axis] = index
    return points if own.col.extent == other.col.extent else None


# -- what becomes of the sums ----------------------------------------------------------------------


def _added(body: Expr, load: Load, added: Expr) -> Expr | None:
    """Return a value with a load added to the product's sum, ``None`` if it is not so added."""
    terms = _terms(added)
    uses = [e for e in walk(body) if e == SUM]
    if terms.count(SUM) != 1 or len(uses) != 1:
        return None
    if any(e == SUM for t in terms if t != SUM for e in walk(t)):
        return None
    terms.remove(SUM)
    return _with_terms(body, load, terms)


def _terms(expr: Expr) -> list[Expr]:
    """Return what is added up, a single term if nothing is."""
    if isinstance(expr, Call) and expr.op == "add":
        return [t for arg in expr.args for t in _terms(arg)]
    return [expr]


def _with_terms(body: Expr, load: Load, terms: list[Expr]) -> Expr | None:
    """Replace a load, which must be added to the product's sum, by other terms."""
    own = _terms(body)
    if SUM in own and load in own:
        own.remove(load)
        own.remove(SUM)
        total: Expr = SUM
        for term in (*own, *terms):
            total = Call("add", (total, term), DTYPE)
        return total
    found: list[Expr] = []

    def below(e: Expr) -> Expr:
        inside = _with_terms(e, load, terms)
        found.extend([] if inside is None else [inside])
        return e if inside is None else inside

    rewritten = body.map(below) if body.children() else body
    return rewritten if found else None


# -- the product of both ---------------------------------------------------------------------------


def _joined(pair: _Pair) -> tuple[Definition, Tensor]:
    """Return the definition of both products as one, and the weights that it reads."""
    own, other = pair.own, pair.other
    depth = Axis(own.anchor.depth.name, as_poly(own.depth + other.depth))
    first = _along(own, var(depth))
    second = _along(other, var(depth) - own.depth)
    stacked = np.concatenate([_matrix(own), _matrix(other)])
    weights = constant(f"{own.b.source.name}.{other.b.source.name}", stacked)
    anchor = replace(
        own.anchor,
        a=one_then_other(first, second, depth, own.depth),
        b=weights.at(var(depth), var(own.anchor.col)),
        taps=(),
        depth=depth,
    )
    return replace(pair.definition, body=pair.body, anchor=anchor), weights


def _along(factors: _Factors, depth: Poly) -> Load:
    """Return what a product multiplies, along another depth."""
    moved: dict[Atom, IndexLike] = {factors.anchor.depth: depth}
    source: Tensor = factors.a.source
    return source.at(*(p.substitute(moved) for p in factors.a.index))


def _matrix(factors: _Factors) -> np.ndarray:
    """Return weights as [depth, columns]."""
    source, anchor = factors.b.source, factors.anchor
    strides = row_major(source.shape)
    address = sum((i * s for i, s in zip(factors.b.index, strides, strict=True)), as_poly(0))
    return strided_view(source.value, address, (anchor.depth, anchor.col))

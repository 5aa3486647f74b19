"""Operators that change elements at places read from data.

An index that lies outside, after negative ones are counted from the end, changes nothing: ONNX
calls that an error, and a compiled program must not write outside its memory.
"""

from __future__ import annotations

from whet.errors import UnsupportedError
from whet.index import Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, index_of
from whet.kernel.scatter import Updates
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.operand import agree, wrapped

OPERATIONS = {"none": "", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def scattered(node: Node, x: Tensor, updates: Tensor, place: tuple[Poly, ...], op: str) -> Tensor:
    """Return ``x`` with every element of ``updates``, in order, put to a place of its own.

    Args:
        node: the node.
        x: what is changed.
        updates: what it is changed to.
        place: the element that an update changes, in the axes of ``axes_for(updates.shape, "u")``.
        op: operation that combines the two, ``""`` to replace what is there.

    Raises:
        ShapeError: ``updates`` has another type.
    """
    if updates.dtype != x.dtype:
        raise node.error(f"cannot put {updates.dtype} into {x.dtype}")
    axes, own = axes_for(x.shape), axes_for(updates.shape, "u")
    start = x.at(*(var(a) for a in axes))
    value = updates.at(*(var(a) for a in own))
    places: tuple[Expr, ...] = tuple(IndexValue(p, "int64") for p in place)
    return node.define(x.shape, x.dtype, Definition(axes, start, Updates(own, places, value, op)))


def _operation(node: Node) -> str:
    name = node.attribute("reduction", "none")
    if name not in OPERATIONS:
        raise UnsupportedError(f"{node.op} with reduction {name!r}", where=node.name)
    if name == "add" and node.input(0).dtype == "bool":
        return "max"  # true + true is true
    return OPERATIONS[name]


def _scatter_elements(node: Node) -> list[Tensor]:
    x, indices, updates = node.input(0), node.input(1), node.input(2)
    if x.rank != indices.rank:
        raise node.error(f"indices {list(indices.shape)} do not fit data {list(x.shape)}")
    agree(node, indices.shape, updates.shape, "indices and updates")
    k = normalise_axis(node, int(node.attribute("axis", 0)), x.rank)
    here = tuple(var(a) for a in axes_for(updates.shape, "u"))
    found = index_of(wrapped(indices.at(*here), x.shape[k]), None, None)
    place = tuple(found if d == k else p for d, p in enumerate(here))
    return [scattered(node, x, updates, place, _operation(node))]


def _scatter_nd(node: Node) -> list[Tensor]:
    x, indices, updates = node.input(0), node.input(1), node.input(2)
    depth = x.rank + indices.rank - 1 - updates.rank
    if not indices.rank or not 0 <= depth <= x.rank:
        raise node.error(f"updates {list(updates.shape)} do not fit {list(indices.shape)}")
    agree(node, indices.shape[-1:], (as_poly(depth),), "positions looked up")
    agree(node, updates.shape, (*indices.shape[:-1], *x.shape[depth:]), "updates")
    here = tuple(var(a) for a in axes_for(updates.shape, "u"))
    outer, inner = here[: indices.rank - 1], here[indices.rank - 1 :]
    found = tuple(
        index_of(wrapped(indices.at(*outer, d), x.shape[d]), None, None) for d in range(depth)
    )
    return [scattered(node, x, updates, (*found, *inner), _operation(node))]


def _tensor_scatter(node: Node) -> list[Tensor]:
    """Write a batch of sequences into a cache, each from a position of its own."""
    x, updates, starts = node.input(0), node.input(1), node.optional(2)
    if x.rank != updates.rank or x.rank < 2:
        raise node.error(f"cannot put {list(updates.shape)} into {list(x.shape)}")
    k = normalise_axis(node, int(node.attribute("axis", -2)), x.rank)
    here = tuple(var(a) for a in axes_for(updates.shape, "u"))
    position = here[k]
    if starts is not None:
        agree(node, starts.shape, updates.shape[:1], "a position for every sequence")
        first = cast(starts.at(here[0]), "int64")
        wanted = binary("add", first, IndexValue(here[k], "int64"))
        if node.attribute("mode", "linear") == "circular":
            wanted = binary("mod", wanted, IndexValue(x.shape[k], "int64"))
        position = index_of(wanted, None, None)
    place = tuple(position if d == k else p for d, p in enumerate(here))
    return [scattered(node, x, updates, place, "")]


OPS: tuple[Op, ...] = (
    Op("ScatterElements", _scatter_elements),
    Op("Scatter", _scatter_elements),
    Op("ScatterND", _scatter_nd),
    Op("TensorScatter", _tensor_scatter),
)

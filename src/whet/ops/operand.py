"""Elements of inputs as expressions: broadcast, constant scalars folded in."""

from __future__ import annotations

import numpy as np

from whet.dtypes import DTYPES
from whet.index import Axis, IndexLike, Opaque, Poly, as_poly, at_least, var
from whet.kernel.expr import Const, Expr, IndexValue, Within, guard
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, compare, select
from whet.ops.node import Node


def operand(tensor: Tensor, axes: tuple[Axis, ...]) -> Expr:
    """Return a tensor's element at a point of ``axes``; a constant scalar becomes a number."""
    fixed = scalar_constant(tensor)
    if fixed is not None:
        return Const(fixed, tensor.dtype)
    return tensor.broadcast(axes)


def scalar_constant(tensor: Tensor) -> float | int | bool | None:
    """Return the value of a constant with one element."""
    value = tensor.value
    if value is None or value.size != 1:
        return None
    found = value.reshape(-1)[0]
    if value.dtype.kind == "b":
        return bool(found)
    return int(found) if DTYPES[tensor.dtype].kind in "iu" else float(found)


def number(p: IndexLike, dtype: str) -> Expr:
    """Return an extent, or another index, as a number."""
    poly = as_poly(p)
    fixed = poly.constant
    if fixed is None:
        return IndexValue(poly, dtype)
    return Const(float(fixed) if dtype.startswith(("float", "bfloat")) else fixed, dtype)


def wrapped(index: Expr, extent: Poly) -> Expr:
    """Return an index in which negative values count from the end of an extent."""
    if index.dtype.startswith("uint"):
        return index
    if isinstance(index, IndexValue) and at_least(index.index, 0):
        return index
    wide = cast(index, "int64")
    negative = compare("lt", wide, 0)
    return select(negative, binary("add", wide, number(extent, "int64")), wide)


def numpy_constant(tensor: Tensor) -> np.ndarray | None:
    """Return a constant's elements, also where they were computed from shapes."""
    if tensor.value is not None:
        return tensor.value
    if tensor.known is None or any(p.constant is None for p in tensor.known):
        return None
    shape = tuple(e.constant or 0 for e in tensor.shape)
    return np.array([p.constant for p in tensor.known]).astype(tensor.dtype).reshape(shape)


def attribute_float(node: Node, name: str, default: float) -> float:
    """Return a float attribute; ONNX keeps them, and their defaults, in single precision."""
    return float(np.float32(node.attribute(name, default)))


def attribute_flag(node: Node, name: str, default: int = 0) -> bool:
    """Return an integer attribute that means yes or no."""
    return bool(node.attribute(name, default))


def looked_up(x: Tensor, index: tuple[Poly, ...]) -> Expr:
    """Return an element at an index read from data, 0 where the tensor has none there.

    Positions read from data are clamped to the extent of their dimension, which leaves nothing to
    read where that is 0; others may lie outside if extents do not go together.
    """
    conditions = (
        Within(as_poly(0) if _is_clamped(place, extent) else place, extent)
        for place, extent in zip(index, x.shape, strict=True)
    )
    return guard(tuple(conditions), x.at(*index), Const(0, x.dtype))


def _is_clamped(place: Poly, extent: Poly) -> bool:
    atoms = [a for a in place.atoms if isinstance(a, Opaque)]
    return len(atoms) == 1 and place == var(atoms[0]) and atoms[0].high == extent


def agree(node: Node, left: tuple[Poly, ...], right: tuple[Poly, ...], what: str) -> None:
    """Ask that two shapes are the same, now as far as they are known and when the model runs.

    Raises:
        ShapeError: they are known to differ.
    """
    known = zip(left, right, strict=False)
    if len(left) != len(right) or any((a - b).constant not in (None, 0) for a, b in known):
        raise node.error(f"{what}: {list(left)} is not {list(right)}")
    for a, b in zip(left, right, strict=True):
        node.agree(a, b)

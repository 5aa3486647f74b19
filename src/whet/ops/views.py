"""Operators that only rename elements: Reshape and its kin, Transpose, Expand, Identity."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import numpy as np

from whet.errors import ShapeError, UnsupportedError
from whet.index import ONE, ZERO, Axis, Poly, as_poly, at_least, product, var
from whet.kernel.expr import Expr
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.broadcast import expansion
from whet.ops.late_shapes import expand_target, reshape_target, squeezed, unsqueezed
from whet.ops.node import Node, Op, constant, known_values, normalise_axis
from whet.ops.operand import agree, attribute_flag, operand

Shape = tuple[Poly, ...]


def strides_of(shape: Shape) -> Shape:
    """Return how far apart neighbours lie when elements are numbered in order."""
    return tuple(product(shape[k + 1 :]) for k in range(len(shape)))


def reshape_index(source: Shape, target: Shape, axes: tuple[Axis, ...]) -> Shape:
    """Return where in ``source`` the element at ``axes`` of ``target`` lies.

    Dimensions are first cut into groups of equal size, so that a reshape that leaves some of them
    alone does not divide by them.
    """
    index = [ZERO] * len(source)
    if any(e == 0 for e in target):
        return tuple(index)
    left = [k for k, e in enumerate(source) if e != 1]
    right = [k for k, e in enumerate(target) if e != 1]
    for inner, outer in _groups([source[k] for k in left], [target[k] for k in right]):
        kept = [left[k] for k in inner]
        shape = tuple(source[k] for k in kept)
        outer_axes = [right[k] for k in outer]
        steps = strides_of(tuple(target[k] for k in outer_axes))
        flat = sum((var(axes[k]) * s for k, s in zip(outer_axes, steps, strict=True)), ZERO)
        for position, (k, stride) in enumerate(zip(kept, strides_of(shape), strict=True)):
            quotient = flat // stride
            index[k] = quotient if position == 0 else quotient % source[k]
    return tuple(index)


def _groups(source: list[Poly], target: list[Poly]) -> list[tuple[range, range]]:
    """Cut two lists of extents into runs with equal products."""
    left = list(accumulate(source, mul, initial=ONE))
    right = {p: k for k, p in enumerate(accumulate(target, mul, initial=ONE))}
    found: list[tuple[range, range]] = []
    i = j = 0
    for k, p in enumerate(left[1:], start=1):
        other = right.get(p)
        if other is not None and other > j:
            found.append((range(i, k), range(j, other)))
            i, j = k, other
    if i < len(source) or j < len(target):
        found.append((range(i, len(source)), range(j, len(target))))
    return found


def reshaped(node: Node, x: Tensor, shape: Shape) -> Tensor:
    """Return a tensor with the same elements in another shape."""
    if x.shape == shape:
        return moved(node, x, shape, tuple(var(a) for a in axes_for(shape)))
    return moved(node, x, shape, reshape_index(x.shape, shape, axes_for(shape)))


def moved(node: Node, x: Tensor, shape: Shape, index: Shape, *, output: int = 0) -> Tensor:
    """Return a tensor whose element at the default axes is ``x`` at ``index``."""
    definition = Definition(axes_for(shape), x.at(*index))
    return node.define(shape, x.dtype, definition, output=output)


# -- operators -------------------------------------------------------------------------------------


def _identity(node: Node) -> list[Tensor]:
    x = node.input(0)
    return [reshaped(node, x, x.shape)]


def _reshape(node: Node) -> list[Tensor]:
    x, target = node.input(0), node.input(1)
    wanted = known_values(target)
    if wanted is None:
        return [reshaped(node, x, reshape_target(node, x, target))]
    return [reshaped(node, x, _target_shape(node, x, wanted))]


def _target_shape(node: Node, x: Tensor, wanted: Shape) -> Shape:
    copies = not attribute_flag(node, "allowzero")
    shape: list[Poly | None] = []
    for k, extent in enumerate(wanted):
        if extent == 0 and copies:
            if k >= x.rank:
                raise node.error(f"dimension {k} copies one that the input does not have")
            shape.append(x.shape[k])
        else:
            shape.append(None if extent == -1 else extent)
    if shape.count(None) > 1:
        raise node.error("more than one dimension is -1")
    known = tuple(e for e in shape if e is not None)
    if None in shape:
        rest = _missing(node, x.shape, known)
        return tuple(rest if e is None else e for e in shape)
    if _differ(product(known), x.size):
        raise node.error(f"{list(x.shape)} does not fit {list(known)}")
    node.agree(product(known), x.size)
    return known


def _missing(node: Node, source: Shape, known: Shape) -> Poly:
    """Return the extent that completes ``known``; equal extents cancel first."""
    left, right = list(source), []
    for extent in known:
        if extent in left:
            left.remove(extent)
        else:
            right.append(extent)
    divisor = product(right)
    if divisor == 0:
        raise node.error("-1 beside a dimension of 0 is ambiguous")
    total = product(left)
    rest = total % divisor
    if rest.constant not in (None, 0):
        raise node.error(f"{list(source)} does not fit {list(known)} and -1")
    node.agree(rest, ZERO)
    return total // divisor


def _differ(p: Poly, q: Poly) -> bool:
    return p != q and (p - q).constant is not None


def _flatten(node: Node) -> list[Tensor]:
    x = node.input(0)
    axis = int(node.attribute("axis", 1))
    if not -x.rank <= axis <= x.rank:
        raise node.error(f"axis {axis} is out of range for rank {x.rank}")
    cut = axis + x.rank if axis < 0 else axis
    return [reshaped(node, x, (product(x.shape[:cut]), product(x.shape[cut:])))]


def _squeeze(node: Node) -> list[Tensor]:
    x = node.input(0)
    if _from_data(node, 1):
        shape = squeezed(node, x.shape, node.input(1))
        node.agree(product(shape), x.size)
        return [reshaped(node, x, shape)]
    axes = node.ints(1)
    if axes is None:
        gone = {k for k, e in enumerate(x.shape) if e == 1}
        for extent in x.shape:
            if extent != 1 and not at_least(extent, 2):
                node.agree(ONE // extent, ZERO)  # with 1 there it would be one axis less
    else:
        gone = {normalise_axis(node, a, x.rank) for a in axes}
    for k in gone:
        if x.shape[k].constant not in (None, 1):
            raise node.error(f"dimension {k} is {x.shape[k]}, not 1")
        node.agree(x.shape[k], ONE)
    kept = [k for k in range(x.rank) if k not in gone]
    shape = tuple(x.shape[k] for k in kept)
    index = [ZERO] * x.rank
    for k, axis in zip(kept, axes_for(shape), strict=True):
        index[k] = var(axis)
    return [moved(node, x, shape, tuple(index))]


def _unsqueeze(node: Node) -> list[Tensor]:
    x = node.input(0)
    if _from_data(node, 1):
        shape = unsqueezed(node, x.shape, node.input(1))
        node.agree(product(shape), x.size)
        return [reshaped(node, x, shape)]
    axes = node.ints(1) or ()
    rank = x.rank + len(axes)
    new = {normalise_axis(node, a, rank) for a in axes}
    if len(new) != len(axes):
        raise node.error(f"axes {list(axes)} repeat")
    extents = iter(x.shape)
    shape = tuple(ONE if k in new else next(extents) for k in range(rank))
    points = axes_for(shape)
    index = tuple(var(a) for k, a in enumerate(points) if k not in new)
    return [moved(node, x, shape, index)]


def _from_data(node: Node, position: int) -> bool:
    """Whether an input is given, is not known, and the model may be cut to learn it."""
    tensor = node.optional(position)
    return node.late is not None and tensor is not None and known_values(tensor) is None


def _transpose(node: Node) -> list[Tensor]:
    x = node.input(0)
    order = tuple(node.attribute("perm") or range(x.rank)[::-1])
    if sorted(order) != list(range(x.rank)):
        raise node.error(f"perm {list(order)} does not permute {x.rank} dimensions")
    shape = tuple(x.shape[k] for k in order)
    index = [ZERO] * x.rank
    for k, axis in zip(order, axes_for(shape), strict=True):
        index[k] = var(axis)
    return [moved(node, x, shape, tuple(index))]


def _expand(node: Node) -> list[Tensor]:
    x, target = node.input(0), node.input(1)
    wanted = known_values(target)
    if wanted is None:
        shape, periods = expand_target(node, x, target)
        axes = axes_for(shape)[len(shape) - x.rank :]
        index = tuple(var(a) % e for a, e in zip(axes, periods, strict=True))
        return [moved(node, x, shape, index)]
    met = expansion(node, x, wanted)
    return [node.pointwise(met.shape, x.dtype, lambda *axes: met.operand(x, 0, axes))]


def _tile(node: Node) -> list[Tensor]:
    x, repeats = node.input(0), node.sizes(1)
    if repeats is None or len(repeats) != x.rank:
        raise node.error("repeats must have one value per dimension")
    shape = tuple(e * r for e, r in zip(x.shape, repeats, strict=True))
    index = tuple(var(a) % e for a, e in zip(axes_for(shape), x.shape, strict=True))
    return [moved(node, x, shape, index)]


def _depth_to_space(node: Node) -> list[Tensor]:
    """Split ``C`` into block rows and columns, outermost (DCR) or innermost (CRD)."""
    x, b = node.input(0), int(node.attribute("blocksize"))
    n, c, h, w = _image(node, x)
    agree(node, (c % (b * b),), (ZERO,), f"what blocks of {b} leave of the channels")
    channels = c // (b * b)
    shape = (n, channels, h * b, w * b)
    i, k, y, z = (var(a) for a in axes_for(shape))
    block = (y % b) * b + z % b
    column_first = node.attribute("mode", "DCR") == "CRD"
    source = k * (b * b) + block if column_first else block * channels + k
    return [moved(node, x, shape, (i, source, y // b, z // b))]


def _space_to_depth(node: Node) -> list[Tensor]:
    """Join block rows and columns to channels, outermost (DCR) or innermost (CRD)."""
    x, b = node.input(0), int(node.attribute("blocksize"))
    n, c, h, w = _image(node, x)
    for side in (h, w):
        agree(node, (side % b,), (ZERO,), f"what blocks of {b} leave of a side")
    shape = (n, c * (b * b), h // b, w // b)
    i, k, y, z = (var(a) for a in axes_for(shape))
    column_first = node.attribute("mode", "DCR") == "CRD"
    block, channel = (k % (b * b), k // (b * b)) if column_first else (k // c, k % c)
    return [moved(node, x, shape, (i, channel, y * b + block // b, z * b + block % b))]


def _image(node: Node, x: Tensor) -> tuple[Poly, Poly, Poly, Poly]:
    if x.rank != 4:
        raise ShapeError(f"{node.op} needs rank 4, not {x.rank}", where=node.name)
    n, c, h, w = x.shape
    return n, c, h, w


def _constant(node: Node) -> list[Tensor]:
    kinds = {
        "value_float": np.float32, "value_floats": np.float32,
        "value_int": np.int64, "value_ints": np.int64,
    }  # fmt: skip
    name = node.outputs[0] if node.outputs else node.name
    value = node.attribute("value")
    if value is not None:
        return [constant(name, np.asarray(value))]
    for kind, dtype in kinds.items():
        if node.attribute(kind) is not None:
            return [constant(name, np.asarray(node.attribute(kind), dtype))]
    raise UnsupportedError("Constant of strings or sparse values", where=node.name)


def filled(node: Node, shape: Shape, value: Expr) -> Tensor:
    """Return a tensor with the same value everywhere."""
    return node.pointwise(shape, value.dtype, lambda *_: value)


def _constant_of_shape(node: Node) -> list[Tensor]:
    shape = node.sizes(0)
    assert shape is not None, "ConstantOfShape has an input"
    value = node.attribute("value")
    fill = constant("fill", np.zeros(1, np.float32) if value is None else np.asarray(value))
    return [filled(node, tuple(as_poly(e) for e in shape), operand(fill, ()))]


OPS: tuple[Op, ...] = (
    Op("Identity", _identity),
    Op("Reshape", _reshape),
    Op("Flatten", _flatten),
    Op("Squeeze", _squeeze),
    Op("Unsqueeze", _unsqueeze),
    Op("Transpose", _transpose),
    Op("Expand", _expand),
    Op("Tile", _tile),
    Op("DepthToSpace", _depth_to_space),
    Op("SpaceToDepth", _space_to_depth),
    Op("Constant", _constant),
    Op("ConstantOfShape", _constant_of_shape),
)

"""What a lowering leaves to the run: sizes that are values of tensors, and sizes that must agree.

Where the shape of a result depends on data, its extents become run-time dimensions that take the
values of a small integer tensor. The model is cut there: what computes that tensor runs first,
then the dimensions are read, then the rest runs. A value may be any size from 0 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from whet.errors import ShapeError
from whet.index import ZERO, Dim, Poly, as_poly, var
from whet.kernel.expr import Expr, Guard, Within
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import const
from whet.ops.shape_values import LIMIT, partly_known


class ValueRead(msgspec.Struct, frozen=True):
    """Dimensions that take the elements of an integer tensor, in order."""

    tensor: Tensor
    dims: tuple[str, ...]
    where: str


class Agreement(msgspec.Struct, frozen=True):
    """Two sizes that must be equal when the model runs."""

    left: Poly
    right: Poly
    where: str


class DimNames(msgspec.Struct):
    """Hands out names of run-time dimensions that are unique in a model."""

    taken: set[str] = msgspec.field(default_factory=set)

    def fresh(self, base: str) -> str:
        """Return ``base``, with a number if it is taken, and reserve it."""
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


class Late(msgspec.Struct):
    """Collects what has to be done between native code, in the order in which it was asked for.

    Attributes:
        names: names of dimensions.
        events: what was asked for; ``whet.lower`` adds control flow to the same list.
    """

    names: DimNames
    events: list[Any] = msgspec.field(default_factory=list)
    _read: dict[int, tuple[Poly, ...]] = msgspec.field(default_factory=dict)
    _kept: list[Tensor] = msgspec.field(default_factory=list)

    def values(self, tensor: Tensor, where: str) -> tuple[Poly, ...]:
        """Return the elements of an integer tensor: as they are known, or as new dimensions.

        Args:
            tensor: of static shape; the elements that are not known must be 0 or more at run time.
            where: the node that asks, for errors.

        Raises:
            ShapeError: the tensor is larger than any shape.
        """
        found = self._read.get(id(tensor))
        if found is None:
            size = tensor.size.constant
            if size is None or size > LIMIT:
                raise ShapeError(f"{tensor.name} has {tensor.size} elements as sizes", where=where)
            found = self._read[id(tensor)] = self._dims(tensor, where)
            self._kept.append(tensor)
        return found

    def _dims(self, tensor: Tensor, where: str) -> tuple[Poly, ...]:
        parts = partly_known(tensor)
        unknown = [k for k, part in enumerate(parts) if part is None]
        names = {
            k: self.names.fresh(f"{tensor.name}[{k}]" if len(parts) > 1 else tensor.name)
            for k in unknown
        }
        source = tensor if len(unknown) == len(parts) else _picked(tensor, unknown)
        if unknown:
            self.events.append(ValueRead(source, tuple(names.values()), where))
        return tuple(
            var(Dim(names[k], 0)) if part is None else part for k, part in enumerate(parts)
        )

    def agree(self, left: Poly, right: Poly, where: str) -> None:
        """Ask that two sizes are equal, unless that is certain already."""
        if left != right:
            self.events.append(Agreement(left, right, where))


def _picked(tensor: Tensor, positions: Sequence[int]) -> Tensor:
    """Return some elements of a tensor of rank 1 (or its only one)."""
    picked = [tensor.at(*((as_poly(k),) if tensor.rank else ())) for k in positions]
    return vector(f"{tensor.name}.sizes", list(picked), tensor.nodes, tensor.ops)


def vector(
    name: str, elements: Sequence[Expr], nodes: tuple[str, ...], ops: tuple[str, ...]
) -> Tensor:
    """Return an int64 tensor of rank 1 with these expressions as elements."""
    shape = (as_poly(len(elements)),)
    axes = axes_for(shape)
    body: Expr = const(0, "int64")
    for k, element in reversed(list(enumerate(elements))):
        body = Guard((Within(var(axes[0]) - k, as_poly(1)),), element, body, "int64")
    if not elements:
        return Tensor(name, (ZERO,), "int64", Definition(axes, body), nodes=nodes, ops=ops)
    return Tensor(name, shape, "int64", Definition(axes, body), nodes=nodes, ops=ops)

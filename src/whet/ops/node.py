"""What an operator's lowering sees of its node, and what it may build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.errors import ShapeError, UnsupportedError
from whet.index import Poly, as_poly, product
from whet.kernel.expr import Expr
from whet.kernel.tensor import Definition, Tensor, axes_for


class LateSizes(Protocol):
    """Where a lowering leaves sizes to the run; see ``whet.ops.late``."""

    def values(self, tensor: Tensor, where: str) -> tuple[Poly, ...]:
        """Return the elements of an integer tensor, as dimensions where they are not known."""

    def agree(self, left: Poly, right: Poly, where: str) -> None:
        """Ask that two sizes are equal when the model runs."""


class Node(msgspec.Struct, frozen=True):
    """One node of the model, with its inputs already lowered.

    Attributes:
        name: node name, for errors and reports.
        op: operator type.
        inputs: one tensor per input; ``None`` where an optional input is left out.
        attributes: attribute values as Python objects and NumPy arrays.
        outputs: names of the outputs; ``""`` where one is not wanted.
        late: takes what only a run can tell, if the model may be cut here.
        origins: names of the source nodes that it stands for, if it is not one of them.
    """

    name: str
    op: str
    inputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]
    late: LateSizes | None = None
    origins: tuple[str, ...] = ()

    def input(self, position: int) -> Tensor:
        """Return a required input.

        Raises:
            ShapeError: the node has no such input.
        """
        found = self.optional(position)
        if found is None:
            raise ShapeError(f"{self.op} needs input {position}", where=self.name)
        return found

    def optional(self, position: int) -> Tensor | None:
        """Return an input, or ``None`` if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or its default."""
        return self.attributes.get(name, default)

    def ints(self, position: int) -> tuple[int, ...] | None:
        """Return the integers of an input that must be known when compiling.

        Raises:
            UnsupportedError: the input depends on data or on run-time dimensions.
        """
        polys = self.extents(position)
        if polys is None:
            return None
        values = tuple(p.constant for p in polys)
        if any(v is None for v in values):
            raise UnsupportedError(
                f"{self.op} needs input {position} as constants", where=self.name
            )
        return tuple(v for v in values if v is not None)

    def extents(self, position: int) -> tuple[Poly, ...] | None:
        """Return the integers of an input, as polynomials in run-time dimensions.

        Raises:
            UnsupportedError: the input depends on data.
        """
        tensor = self.optional(position)
        if tensor is None:
            return None
        found = known_values(tensor)
        if found is None:
            raise self.depends_on_data(position)
        return found

    def sizes(self, position: int) -> tuple[Poly, ...] | None:
        """Return the integers of an input; those that depend on data become run-time dimensions.

        The values must be sizes: a run with a negative one fails.

        Raises:
            UnsupportedError: the model cannot be cut here, or the input's own size is unknown.
        """
        tensor = self.optional(position)
        return None if tensor is None else self.sizes_of(tensor)

    def sizes_of(self, tensor: Tensor) -> tuple[Poly, ...]:
        """Return the integers of a tensor; those that depend on data become run-time dimensions.

        Raises:
            UnsupportedError: the model cannot be cut here, or the tensor's own size is unknown.
        """
        found = known_values(tensor)
        if found is not None:
            return found
        if self.late is None or tensor.size.constant is None:
            raise self.depends_on_data(tensor.name)
        return self.late.values(tensor, self.name)

    def static(self, extent: Poly) -> int:
        """Return an extent of a weight.

        Raises:
            ShapeError: only a run knows it.
        """
        if extent.constant is None:
            raise self.error("needs weights of static shape")
        return extent.constant

    def depends_on_data(self, what: int | str) -> UnsupportedError:
        """Return the error that an input had to be known when compiling."""
        return UnsupportedError(
            f"{self.op} takes its input {what} from data",
            where=self.name,
            hint="give static input shapes, or simplify the model with constant inputs",
        )

    def agree(self, left: Poly, right: Poly) -> None:
        """Have a run check that two sizes are equal, where that can only be known then."""
        if self.late is not None:
            self.late.agree(left, right, self.name)

    def error(self, message: str, hint: str | None = None) -> ShapeError:
        """Return a shape error that names this node."""
        return ShapeError(f"{self.op}: {message}", where=self.name, hint=hint)

    def step(self, suffix: str, *inputs: Tensor | None, **attributes: Any) -> Node:
        """Return a node for one step of this one's decomposition, to lower as another operator."""
        name = f"{self.outputs[0] or self.name}.{suffix}"
        return replace(self, inputs=inputs, attributes=attributes, outputs=(name,))

    # -- building results --------------------------------------------------------------------

    def define(
        self,
        shape: tuple[Poly, ...],
        dtype: str,
        definition: Definition,
        *,
        output: int = 0,
        order: tuple[int, ...] = (),
    ) -> Tensor:
        """Return a tensor with an equation."""
        name = self.outputs[output] if output < len(self.outputs) else ""
        return Tensor(
            name or f"{self.name}:{output}",
            shape,
            dtype,
            definition,
            nodes=self.origins or (self.name,),
            ops=(self.op,),
            order=order,
        )

    def pointwise(
        self, shape: tuple[Poly, ...], dtype: str, body: Callable[..., Expr], *, output: int = 0
    ) -> Tensor:
        """Return a tensor whose element at axes ``(i0, i1, ...)`` is ``body(i0, i1, ...)``."""
        axes = axes_for(shape)
        return self.define(shape, dtype, Definition(axes, body(*axes)), output=output)

    def temporary(
        self, suffix: str, shape: tuple[Poly, ...], dtype: str, definition: Definition
    ) -> Tensor:
        """Return an inner tensor of a lowering that takes several equations."""
        return Tensor(
            f"{self.name}.{suffix}",
            shape,
            dtype,
            definition,
            nodes=self.origins or (self.name,),
            ops=(self.op,),
        )


Lower = Callable[[Node], list[Tensor]]


class Op(msgspec.Struct, frozen=True):
    """One operator: its name and what it becomes.

    Attributes:
        name: operator type.
        lower: builds the outputs; may leave out trailing ones that nobody wants.
        domain: operator set domain.
    """

    name: str
    lower: Lower
    domain: str = ""


def known_values(tensor: Tensor) -> tuple[Poly, ...] | None:
    """Return a tensor's integers if they are constant or computed from shapes."""
    if tensor.known is not None:
        return tensor.known
    if tensor.value is not None and tensor.value.dtype.kind in "iub" and tensor.value.size <= 4096:
        return tuple(as_poly(int(v)) for v in tensor.value.reshape(-1))
    return None


def constant(name: str, value: np.ndarray) -> Tensor:
    """Return a constant tensor."""
    shape = tuple(as_poly(n) for n in value.shape)
    return Tensor(name, shape, value.dtype.name, value=value)


def broadcast_shapes(node: Node, shapes: list[tuple[Poly, ...]]) -> tuple[Poly, ...]:
    """Return the shape that all shapes broadcast to.

    Raises:
        ShapeError: two extents differ and neither is 1. Where that depends on the run, the run
            checks it.
    """
    rank = max(len(s) for s in shapes)
    result: list[Poly] = []
    for k in range(rank):
        extents = [s[k - rank + len(s)] for s in shapes if k - rank + len(s) >= 0]
        extent = wide_extent(extents)
        for other in (e for e in extents if e != 1):
            if other != extent and (node.late is None or (other - extent).constant is not None):
                text = " and ".join(str(list(s)) for s in shapes)
                raise node.error(f"cannot broadcast {text}")
            node.agree(other, extent)
        result.append(extent)
    return tuple(result)


def wide_extent(extents: Sequence[Poly]) -> Poly:
    """Return the extent that others broadcast to: the first that is not 1, best a known one."""
    wide = [e for e in extents if e != 1]
    return next((e for e in wide if e.constant is not None), wide[0] if wide else as_poly(1))


def normalise_axis(node: Node, axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        ShapeError: it is out of range.
    """
    if not -rank <= axis < max(rank, 1):
        raise node.error(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def elements(shape: tuple[Poly, ...]) -> Poly:
    """Return the number of elements of a shape."""
    return product(shape)

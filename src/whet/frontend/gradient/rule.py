"""What the derivative of one operator is written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.frontend.translation import Operand, Translation

Slopes = Sequence[ir.Value | None]
"""For each input of a node the derivative of ``y`` with respect to it, ``None`` for zero."""


class Back(msgspec.Struct, frozen=True):
    """One node of the differentiated graph, seen from behind.

    Attributes:
        t: builds the nodes of the derivative.
        node: the node.
        slopes: derivatives of ``y`` with respect to the node's outputs; ``None`` for zero.
    """

    t: Translation
    node: ir.Node
    slopes: Slopes

    @property
    def slope(self) -> ir.Value:
        """The derivative with respect to the first output."""
        found = self.slopes[0]
        if found is None or any(s is not None for s in self.slopes[1:]):
            raise self.refuse("through more than its first output")
        return found

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def x(self, position: int = 0) -> ir.Value:
        """Return a required input."""
        found = self.node.inputs[position] if position < len(self.node.inputs) else None
        if found is None:
            raise self.refuse(f"without its input {position}")
        return found

    def given(self, position: int) -> ir.Value | None:
        """Return an input, ``None`` if it is left out."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Return the value of an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """Add a standard node."""
        return self.t.op(op_type, *inputs, **attributes)

    def number(self, number: float) -> np.ndarray[Any, Any]:
        """Return a number in the type of the first output."""
        return self.t.scalar(number, self.y)

    def mul(self, one: Operand, other: Operand) -> ir.Value:
        """Multiply."""
        return self.op("Mul", one, other)

    def zero_where(self, condition: ir.Value, value: ir.Value) -> ir.Value:
        """Return a value, and 0 where a condition holds."""
        return self.op("Where", condition, self.number(0.0), value)

    def static(self, value: ir.Value) -> tuple[int, ...]:
        """Return a shape that has to be known."""
        return tuple(self.t.fixed(value, k) for k in range(self.t.rank(value)))

    def onto(self, slope: ir.Value, x: ir.Value) -> ir.Value:
        """Sum a derivative over the dims along which an input was broadcast.

        Raises:
            UnsupportedError: it is not known which those are.
        """
        wide, own = slope.shape, x.shape
        if wide is None or own is None:
            raise self.refuse("of values whose rank is unknown")
        extra = len(wide) - len(own)
        if extra:
            axes = np.arange(extra, dtype=np.int64)
            slope = self.op("ReduceSum", slope, axes, keepdims=0)
        sums: list[int] = []
        for k, (a, b) in enumerate(zip(tuple(wide)[extra:], own, strict=True)):
            if b == 1 and a != 1:
                sums.append(k)
            elif a != b and not (isinstance(b, int) and b > 1):
                raise self.refuse(f"where it is not known whether dim {k} of {x.name!r} is 1")
        return self.op("ReduceSum", slope, np.array(sums, np.int64)) if sums else slope

    def refuse(self, reason: str) -> UnsupportedError:
        """Return an error that names the node."""
        return UnsupportedError(
            f"Gradient: {self.node.op_type} has no derivative {reason}",
            where=f"node {self.t.node.name!r}",
            hint="differentiate when training, and export the gradient's own operators",
        )


Rule = Callable[[Back], Slopes]
"""Returns the derivatives with respect to a node's inputs."""

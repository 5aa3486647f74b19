"""Window functions: Hann, Hamming and Blackman."""

from __future__ import annotations

import math

from whet.index import Axis, var
from whet.kernel.expr import Expr, IndexValue
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, const, unary
from whet.ops.node import Lower, Node, Op
from whet.ops.operand import attribute_flag, number
from whet.ops.pointwise import element_type

COEFFICIENTS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}
"""``w[n] = sum over j of a[j] cos(2 pi j n / N)``; source: ONNX."""


def _window(coefficients: tuple[float, ...]) -> Lower:
    def lower(node: Node) -> list[Tensor]:
        (size,) = node.extents(0) or ()
        goal = element_type(node, node.attribute("output_datatype", 1))
        dtype = "float64" if goal == "float64" else "float32"
        period = size if attribute_flag(node, "periodic", 1) else size - 1

        def body(n: Axis) -> Expr:
            turn = binary("div", IndexValue(var(n), dtype), number(period, dtype))
            total: Expr = const(coefficients[0], dtype)
            for j, factor in enumerate(coefficients[1:], start=1):
                wave = unary("cos", binary("mul", turn, 2 * math.pi * j))
                total = binary("add", total, binary("mul", wave, factor))
            return cast(total, goal)

        return [node.pointwise((size,), goal, body)]

    return lower


OPS: tuple[Op, ...] = tuple(Op(name, _window(c)) for name, c in COEFFICIENTS.items())

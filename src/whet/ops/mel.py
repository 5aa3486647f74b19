"""The matrix that weighs the bins of a spectrum into bands of the mel scale."""

from __future__ import annotations

import math

from whet.index import Axis, var
from whet.kernel.expr import Expr, IndexValue
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, compare, const, select, unary
from whet.ops.node import Node, Op
from whet.ops.operand import number, operand
from whet.ops.pointwise import element_type

SCALE, CORNER = 2595.0, 700.0
"""``mel(f) = SCALE * log10(1 + f / CORNER)``; source: ONNX MelWeightMatrix."""


def lower_mel_weights(node: Node) -> list[Tensor]:
    """Lower ``MelWeightMatrix``: triangles between neighbouring edges, evenly spaced in mel."""
    (bands,), (length,) = node.sizes(0) or (), node.sizes(1) or ()
    rate, low, high = (cast(operand(node.input(k), ()), "float64") for k in (2, 3, 4))
    goal = element_type(node, node.attribute("output_datatype", 1))
    first, last = _mel(low), _mel(high)
    spread = binary("div", binary("sub", last, first), number(bands + 2, "float64"))

    def edge(position: Expr) -> Expr:
        """Return the bin of an edge, rounded down."""
        mel = binary("add", binary("mul", position, spread), first)
        raised = unary("expm1", binary("mul", mel, math.log(10) / SCALE))
        hertz = binary("mul", raised, CORNER)
        scaled = binary("mul", hertz, number(length + 1, "float64"))
        return unary("floor", binary("div", scaled, rate))

    def body(*axes: Axis) -> Expr:
        here, band = (IndexValue(var(a), "float64") for a in axes)
        left, middle, right = (edge(binary("add", band, k) if k else band) for k in range(3))
        rise, fall = binary("sub", middle, left), binary("sub", right, middle)
        up = binary("div", binary("sub", here, left), rise)
        down = binary("div", binary("sub", right, here), fall)
        before = binary("and", compare("ge", here, left), compare("le", here, middle))
        after = binary("and", compare("ge", here, middle), compare("lt", here, right))
        peak = select(compare("eq", rise, 0.0), const(1.0, "float64"), up)
        rising = select(before, peak, const(0.0, "float64"))
        return cast(select(after, down, rising), goal)

    return [node.pointwise((length // 2 + 1, bands), goal, body)]


def _mel(hertz: Expr) -> Expr:
    scaled = unary("log1p", binary("div", hertz, CORNER))
    return binary("mul", scaled, SCALE / math.log(10))


OPS: tuple[Op, ...] = (Op("MelWeightMatrix", lower_mel_weights),)

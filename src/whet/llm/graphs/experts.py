"""Mixtures of experts: each expert computes the tokens that are routed to it, and no others.

The tokens of an expert are as many as the router says, so the program reads the counts and goes on
with them. A token's experts are added in the order of their numbers, whatever else is in the step:
its bits do not depend on company.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from whet.llm.architecture import Experts
from whet.llm.graphs.graph import FLOAT, INT32, GraphWriter


@dataclass(frozen=True, slots=True)
class Network:
    """One feed-forward network: what the roles of its parts begin with, and its inner width."""

    prefix: str
    inner: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """What the decoder lends.

    Attributes:
        network: writes one feed-forward network for given tokens.
        router: writes a product of all tokens with the part of a role, of so many columns.
        name: of the layer.
    """

    network: Callable[[ir.Value, Network], ir.Value]
    router: Callable[[str, int], ir.Value]
    name: str


def write_experts(g: GraphWriter, x: ir.Value, experts: Experts, pieces: Pieces) -> ir.Value:
    """Return what the experts make of the tokens ``x``."""
    name = pieces.name
    logits = pieces.router("router", experts.count)
    shares = g.op("Softmax", logits, name=f"{name}.shares", axis=-1)
    count = g.ints(experts.chosen)
    weights, chosen = g.two("TopK", shares, count, name=f"{name}.chosen", axis=-1)
    if experts.normalised:
        total = g.op("ReduceSum", weights, g.ints(-1), name=f"{name}.total", keepdims=1)
        weights = g.op("Div", weights, total, name=f"{name}.weights")
    if experts.shared:
        out = _shared(g, x, experts, pieces)
    else:
        zero = g.constant("zero", np.zeros(1, np.float32))
        out = g.op("Mul", x, zero, name=f"{name}.begin")
    for number in range(experts.count):
        out = _added(g, (out, x), (weights, chosen), number, experts, pieces)
    return out


def _shared(g: GraphWriter, x: ir.Value, experts: Experts, pieces: Pieces) -> ir.Value:
    y = pieces.network(x, Network("shared.", experts.shared))
    gate = pieces.router("shared.router", 1)
    opened = g.op("Sigmoid", gate, name=f"{pieces.name}.shared.opened")
    return g.op("Mul", y, opened, name=f"{pieces.name}.shared.weighted")


def _added(
    g: GraphWriter,
    tokens: tuple[ir.Value, ir.Value],
    routes: tuple[ir.Value, ir.Value],
    number: int,
    experts: Experts,
    pieces: Pieces,
) -> ir.Value:
    """Return the sum so far, plus what one expert makes of its tokens."""
    out, x = tokens
    weights, chosen = routes
    name = f"{pieces.name}.expert{number}"
    here = g.op("Equal", chosen, g.ints(number), name=f"{name}.here")
    zero = g.constant("zero", np.zeros(1, np.float32))
    parts = g.op("Where", here, weights, zero, name=f"{name}.parts")
    weight = g.op("ReduceSum", parts, g.ints(-1), name=f"{name}.weight", keepdims=1)
    flags = g.op("Cast", here, name=f"{name}.flags", to=int(INT32))
    used = g.op("ReduceMax", flags, g.ints(-1), name=f"{name}.used", keepdims=0)
    found = g.op("NonZero", used, name=f"{name}.found")
    rows = g.op("Squeeze", found, g.ints(0), name=f"{name}.rows")
    own = g.op("Gather", x, rows, name=f"{name}.tokens", axis=0)
    own.type = ir.TensorType(FLOAT)
    made = pieces.network(own, Network(f"expert{number}.", experts.inner))
    share = g.op("Gather", weight, rows, name=f"{name}.share", axis=0)
    scaled = g.op("Mul", made, share, name=f"{name}.scaled")
    places = g.op("Unsqueeze", rows, g.ints(1), name=f"{name}.places")
    return g.op("ScatterND", out, places, scaled, name=f"{name}.out", reduction="add")

"""Channels that are multiplied by a gate and then by weights: the product takes both factors.

``(x * g) W = x (g * W)``, as in squeeze and excitation (Hu et al., "Squeeze-and-Excitation
Networks", 2018), where ``g`` is one number for each channel of an image. Each vector of weights is
multiplied by its gate where a register tile loads it, for a dozen pixels at once, and the image is
not written and read again. Factors are multiplied in another order: level 3 only.
"""

from __future__ import annotations

from msgspec.structs import replace

from whet.index import Atom, IndexLike, product
from whet.kernel.expr import Call, Load
from whet.kernel.schedule import most_rows
from whet.kernel.tensor import Product, Tensor
from whet.lower.equations import Equations
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.storage import magnitude
from whet.lower.uses import index_atoms, is_affine
from whet.target import Target

NAME = "gate_products"
DTYPES = ("float32", "float64")
"""Types whose products are not rounded before they are multiplied by weights."""
LEAST_PIXELS = 12
"""Pixels of an image that share a gate, at least: about as many as a register tile has."""
PASS_CYCLES = 10
"""What a pass over an image costs for each vector, where it and its product stay in the caches."""
VECTORS = 2
"""Vectors of weights that a register tile loads for each channel, and multiplies by its gate."""


def gate_products(equations: Equations, rewrites: Rewrites, target: Target) -> Equations:
    """Multiply weights instead of images by gates, where that is faster."""
    readers = count_readers(equations)
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is None or not isinstance(definition.anchor, Product):
            continue
        anchor = definition.anchor
        source = _gated_source(anchor, readers)
        gated = None if source is None else _gated(anchor, source)
        if source is None or gated is None or not _pays(gated, target) or not rewrites.take(NAME):
            continue
        tensor.definition = replace(definition, anchor=gated)
        merge_origins(source, tensor)
    return needed_equations(equations)


def _gated_source(anchor: Product, readers: Readers) -> Tensor | None:
    """Return what a product alone reads, if each element of it is a single multiplication."""
    a, b = anchor.a, anchor.b
    if anchor.dot is not None or anchor.merged != 1 or any(t.extent != 1 for t in anchor.taps):
        return None
    if not isinstance(a, Load) or a.dtype not in DTYPES or not readers.single(a.source):
        return None
    if not isinstance(b, Load) or b.source.value is None or _any(b, anchor.rows):
        return None
    inner = a.source.definition
    if inner is None or inner.anchor is not None or inner.index:
        return None
    body = inner.body
    return a.source if isinstance(body, Call) and body.op == "mul" else None


def _gated(anchor: Product, source: Tensor) -> Product | None:
    """Return a product of one factor of its operand, with the other one as the gate."""
    a, inner = anchor.a, source.definition
    assert isinstance(a, Load) and inner is not None and isinstance(inner.body, Call)
    places: dict[Atom, IndexLike] = dict(zip(inner.axes, a.index, strict=True))
    factors = [f.substitute(places) for f in inner.body.args]
    for image, gate in (factors, factors[::-1]):
        if not isinstance(image, Load) or not isinstance(gate, Load):
            continue
        known = {anchor.depth, *anchor.rows}
        if index_atoms(gate) <= known and gate.depends_on(anchor.depth) and is_affine(gate):
            return replace(anchor, a=image, gate=gate)
    return None


def _pays(gated: Product, target: Target) -> bool:
    """Whether enough pixels share a gate, and few enough results multiply it by their weights.

    Every register tile multiplies the weights again, a dozen pixels for each result. On two threads
    of a Zen 4, 14 pixels of 480 channels took 1.00 of the time for 64 results, 1.04 for 192 and
    1.06 for 640 while the caches were its own; beside neighbours that use the third one all of
    EfficientNet-B0, of up to 320, took 0.91.
    """
    assert gated.gate is not None
    shared = [r.extent for r in gated.rows if not gated.gate.depends_on(r)]
    results = magnitude(gated.col.extent)
    enough = magnitude(product(shared)) >= LEAST_PIXELS
    return enough and results <= PASS_CYCLES * most_rows(target, VECTORS)


def _any(load: Load, axes: tuple[Atom, ...]) -> bool:
    return any(load.depends_on(a) for a in axes)

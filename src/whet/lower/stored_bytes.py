"""Dequantised values stay in memory as the bytes that they come from.

``x = f(q)`` of a byte ``q``, as DequantizeLinear computes it, takes a quarter of the memory as
``q``, and ``f`` is a few instructions wherever ``x`` is read. What a QuantizeLinear and a
DequantizeLinear in a row round is stored between the two.
"""

from __future__ import annotations

from whet.dtypes import DTYPES
from whet.kernel.expr import Const, Expr, Load, depth, walk
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.lower.dequantised import Dequantised, dequantised
from whet.lower.equations import Equations
from whet.lower.fuse import work
from whet.lower.readers import merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.uses import DEPTH_LIMIT, rewrite_definition, sources
from whet.ops.movement import concat_parts

SWITCH = "store_bytes"
MOST_WORK = 6
"""Instructions that are repeated wherever the value is read; a DequantizeLinear takes 2 to 5."""


def store_bytes(equations: Equations, rewrites: Rewrites) -> Equations:
    """Let dequantised tensors be bytes, in place; return the equations that are left."""
    outputs = {id(t) for _, t in equations.outputs}
    readers: dict[int, list[Tensor]] = {}
    for tensor in equations.tensors:
        for source in sources(tensor.definition) if tensor.definition is not None else ():
            readers.setdefault(id(source), []).append(tensor)
    for tensor in equations.tensors:
        found = _storable(tensor)
        if found is None or id(tensor) in outputs:
            continue
        read_by = readers.get(id(tensor), [])
        if all(_takes(r, tensor, found) for r in read_by) and rewrites.take(SWITCH):
            _store(tensor, found, read_by)
            if isinstance(found.byte, Load):
                readers.setdefault(id(found.byte.source), []).extend(read_by)
    return needed_equations(equations)


def _storable(tensor: Tensor) -> Dequantised | None:
    definition = tensor.definition
    if definition is None or not DTYPES[tensor.dtype].is_float or concat_parts(tensor) is not None:
        return None
    if definition.anchor is not None and not isinstance(definition.anchor, Product | Steps):
        return None
    found = dequantised(definition.body)
    if found is None or work(found.of(Const(0, found.byte.dtype))) > MOST_WORK:
        return None
    plain = definition.anchor is None and not definition.index
    return found if not isinstance(found.byte, Load) or plain else None


def _takes(reader: Tensor, tensor: Tensor, found: Dequantised) -> bool:
    """Whether a tensor can compute floats from bytes where it reads them, once for each element."""
    definition = reader.definition
    if definition is None or concat_parts(reader) is not None:
        return False
    if max(map(depth, definition.expressions())) + len(found.steps) > DEPTH_LIMIT:
        return False
    if definition.anchor is None or isinstance(definition.anchor, Steps):
        return True
    below = (e for root in definition.anchor.expressions() for e in walk(root))
    return not any(isinstance(e, Load) and e.source is tensor for e in below)


def _store(tensor: Tensor, found: Dequantised, readers: list[Tensor]) -> None:
    definition = tensor.definition
    assert definition is not None
    byte = found.byte

    def rewrite(e: Expr) -> Expr:
        if not isinstance(e, Load) or e.source is not tensor:
            return e
        if isinstance(byte, Load):
            return found.of(byte.substitute(dict(zip(definition.axes, e.index, strict=True))))
        return found.of(Load(tensor, e.index, byte.dtype))

    for reader in readers:
        assert reader.definition is not None
        reader.definition = rewrite_definition(reader.definition, rewrite)
        if isinstance(byte, Load):
            merge_origins(tensor, reader)
    if not isinstance(byte, Load):
        tensor.definition = Definition(definition.axes, byte, definition.anchor, definition.index)
        tensor.dtype, tensor.name = byte.dtype, f"{tensor.name}.bytes"

"""Fusion: which equations are inlined into their readers, and which end in another's epilogue.

Two rules. *Inlining*: a pointwise equation disappears into its reader where that costs nothing, or
saves more memory traffic than the work it repeats. *Epilogue*: a pointwise equation that is the
only reader of a product or reduction, element by element, is evaluated on its registers. The first
of them stands here, the second in ``epilogues.py``.
"""

from __future__ import annotations

from collections import Counter

from whet.dtypes import BYTES, DTYPES
from whet.index import product
from whet.kernel.blocks import BlockSum, QuantizedRows
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import (
    Call,
    Expr,
    Guard,
    Load,
    byte_of,
    walk,
)
from whet.kernel.filter import Kept
from whet.kernel.paged import PagedAttend
from whet.kernel.sort import Sorted
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.lower.attention import fuse_attention
from whet.lower.dequantised import dequantised
from whet.lower.epilogues import absorb_anchor
from whet.lower.equations import Equations
from whet.lower.integer_attention import fuse_integer_attention
from whet.lower.pulled_scales import pull_scales
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.storage import magnitude
from whet.lower.uses import at_own_place, inline_at, loads, rewrite_definition, sources, too_deep
from whet.ops.movement import concat_parts

CHEAP_OPS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "neg",
        "abs",
        "max",
        "min",
        "and",
        "or",
        "xor",
        "not",
        "select",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "cast",
        "fma",
        "floor",
        "nearest",
        "round",
    ]
)
CHEAP = 1
DEAR = 12
REPEAT_LIMIT = 4
ROW_LIMIT = 16
LITTLE = 4
NODES_LIMIT = 500
"""Nodes that an expression may repeat as text, although they are evaluated once."""


def work(expr: Expr) -> int:
    """Estimate the instructions of an expression, in simple vector operations."""
    return sum(operation_work(e) for e in walk(expr))


def operation_work(node: Expr) -> int:
    """Estimate the instructions of a single node of an expression."""
    if isinstance(node, Guard):
        return 2
    if not isinstance(node, Call):
        return 0
    return CHEAP if node.op in CHEAP_OPS else DEAR


def fuse(equations: Equations, *, level: int) -> Equations:
    """Fuse in place and return the equations that are left.

    Below level 2 only views are inlined, so that every operator stays a kernel of its own.
    """
    readers = count_readers(equations)
    for tensor in equations.tensors:
        if tensor.definition is not None:
            if level >= 3:
                pull_scales(tensor)
            _inline_into(tensor, readers, level)
    equations = needed_equations(equations)
    if level >= 2:
        readers = count_readers(equations)
        for tensor in equations.tensors:
            absorb_anchor(tensor, readers)
        equations = needed_equations(equations)
        readers = count_readers(equations)
        for tensor in equations.tensors:
            if not fuse_attention(tensor, readers.single):
                fuse_integer_attention(tensor, readers.single, readers.count)
        equations = needed_equations(equations)
    return equations


def _inline_into(tensor: Tensor, readers: Readers, level: int) -> None:
    """Inline what may be inlined into one tensor's definition, until nothing more may."""
    assert tensor.definition is not None
    if concat_parts(tensor) is not None:
        return
    definition = tensor.definition
    while True:
        counts = Counter((id(e.source)) for e in loads(definition))
        chosen = {
            id(e.source): e.source
            for e in loads(definition)
            if _may_inline(e.source, definition, counts[id(e.source)], readers, level)
        }
        if not chosen:
            break
        for source in chosen.values():
            merge_origins(source, tensor)

        def rewrite(e: Expr, chosen: dict[int, Tensor] = chosen) -> Expr:
            return inline_at(e) if isinstance(e, Load) and id(e.source) in chosen else e

        definition = rewrite_definition(definition, rewrite)
    tensor.definition = definition


def _may_inline(
    source: Tensor, reader: Definition, count: int, readers: Readers, level: int
) -> bool:
    inner = source.definition
    if inner is None or inner.anchor is not None or inner.index:
        return False
    if concat_parts(source) is not None or too_deep(inner, reader):
        return False
    if is_view(inner):
        return True
    if _rounds_to_bytes(inner.body) and not _is_read_in_place(source, reader):
        return False
    fixed = id(source) in readers.outputs or _is_repeated(source, reader)
    return level >= 2 and not fixed and _pays(source, reader, count, readers)


def _pays(source: Tensor, reader: Definition, count: int, readers: Readers) -> bool:
    """Whether repeating the work of a source costs less than storing it."""
    inner = source.definition
    assert inner is not None
    if _narrows(source) and _would_be_absorbed(source, readers):
        return False
    if isinstance(reader.anchor, QuantizedRows) and _would_be_absorbed(source, readers):
        return False
    cost = work(inner.body) * _amplification(source, reader)
    if isinstance(reader.anchor, Steps):
        return _cheap_in_steps(source, reader, cost, readers)
    if readers.single(source):
        most = max(DEAR * REPEAT_LIMIT, work(inner.body))
        return _rounds_once(source, reader, count) or cost * count <= most
    return cost <= REPEAT_LIMIT and _reads_little(source)


def _rounds_to_bytes(expr: Expr) -> bool:
    """Whether a float is a byte that is computed, so that the byte is what is worth storing."""
    found = dequantised(expr)
    return found is not None and isinstance(found.byte, Call)


def _is_read_in_place(source: Tensor, reader: Definition) -> bool:
    """Whether a reader without anchor reads the element that it defines."""
    reads = [e for e in loads(reader) if e.source is source]
    return reader.anchor is None and all(at_own_place(e, reader) for e in reads)


def _rounds_once(source: Tensor, reader: Definition, count: int) -> bool:
    """Whether a reader rounds the element that it defines to a byte.

    It names the element some times, to clamp it, but that is computed once.
    """
    assert source.definition is not None
    if reader.body.dtype not in BYTES or not _is_read_in_place(source, reader):
        return False
    nodes = count * sum(1 for _ in walk(source.definition.body))
    return nodes <= NODES_LIMIT


def _amplification(source: Tensor, reader: Definition) -> int:
    """Return how often a reader would evaluate each element of a source that it broadcasts."""
    points = magnitude(product(a.extent for a in reader.axes))
    return max(1, points // max(magnitude(source.size), 1))


def _reads_little(source: Tensor) -> bool:
    """Whether evaluating a tensor reads far less than the tensor itself, as masks do."""
    assert source.definition is not None
    read = sum(magnitude(s.size) for s in sources(source.definition))
    return read * LITTLE <= magnitude(source.size)


def is_view(definition: Definition) -> bool:
    """Whether elements are only moved, never computed, so that inlining is free.

    What is looked up in a table of bytes counts as computed.
    """
    body = definition.body
    if isinstance(body, Load) and any(byte_of(p) is not None for p in body.index):
        return False
    return all(not isinstance(e, Call | Guard) for e in walk(body))


def _is_repeated(source: Tensor, reader: Definition) -> bool:
    """Whether an anchor reads the source where it evaluates an element again and again.

    Products do for every tile, sorts whenever they compare, filters for every pair.
    """
    anchor = reader.anchor
    operands: tuple[Expr | None, ...] = ()
    if isinstance(anchor, Product):
        operands = (anchor.a, anchor.b)
    elif isinstance(anchor, Sorted):
        operands = (anchor.key,)
    elif isinstance(anchor, Kept):
        operands = (anchor.clash,)
    elif isinstance(anchor, PagedAttend):
        operands = (anchor.q,)
    elif isinstance(anchor, DequantizedSum):
        operands = (anchor.x,)
    found = (e for o in operands if o is not None for e in walk(o))
    return any(isinstance(e, Load) and e.source is source for e in found)


def _cheap_in_steps(source: Tensor, reader: Definition, cost: int, readers: Readers) -> bool:
    """Whether repeated evaluation inside reductions costs less than a pass over memory."""
    assert isinstance(reader.anchor, Steps)
    if not readers.single(source):
        return False
    if _is_window(reader) or _would_be_absorbed(source, readers):
        return False
    passes = sum(
        isinstance(e, Load) and e.source is source
        for root in reader.expressions()
        for e in walk(root)
    )
    return cost * passes <= ROW_LIMIT


def _narrows(tensor: Tensor) -> bool:
    """Whether a tensor takes less memory than each of what it is computed from."""
    assert tensor.definition is not None
    read = sources(tensor.definition)
    size = DTYPES[tensor.dtype].size
    wide = [s for s in read if s.size == tensor.size]
    return bool(wide) and all(DTYPES[s.dtype].size > size for s in wide)


def _would_be_absorbed(tensor: Tensor, readers: Readers) -> bool:
    """Whether a product could take a tensor into its epilogue, which costs no pass at all."""
    definition = tensor.definition
    assert definition is not None
    return any(
        s.definition is not None
        and isinstance(s.definition.anchor, Product | BlockSum | DequantizedSum)
        and readers.single(s)
        and s.shape == tensor.shape
        for s in sources(definition)
    )


def _is_window(definition: Definition) -> bool:
    """Whether neighbouring points read the same elements, as pooling does."""
    assert isinstance(definition.anchor, Steps)
    taps = {a for step in definition.anchor.steps for a in step.axes}
    for load in loads(definition):
        for p in load.index:
            atoms = p.atoms
            if atoms & taps and atoms & set(definition.axes):
                return True
    return False

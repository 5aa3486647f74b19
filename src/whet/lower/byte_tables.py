"""Functions of one byte become tables of all its values.

Between two quantised values an activation is a function of 8 bits, whatever it takes in floats:
``QuantizeLinear(Sigmoid(DequantizeLinear(x)))``, and its product with ``x``. It is evaluated for
all 256 bytes when compiling; the kernel that makes the byte looks its result up.
"""

from __future__ import annotations

import msgspec
import numpy as np

from whet.dtypes import BYTES, numpy_dtype
from whet.index import Opaque, Poly, as_poly, var
from whet.kernel.expr import Call, Expr, Guard, IndexValue, Load, Var, rewrite_leaves, walk
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.lower.equations import Equations
from whet.lower.fuse import operation_work
from whet.lower.readers import merge_origins
from whet.lower.rewrites import Rewrites
from whet.lower.uses import at_own_place, sources
from whet.ops.movement import concat_parts
from whet.ops.node import constant
from whet.target import Target

NAME = "tabulate_bytes"
BYTE = "byte"
COUNT = 256
LEAST_WORK = 16
"""The least work of a function that is looked up: more than requantising it."""
MOST_NODES = 500
"""The largest function that those behind it are joined with; shared parts count each time."""


class _OfByte(msgspec.Struct, frozen=True):
    """What a tensor is of the bytes of another one, element by element.

    Attributes:
        base: the tensor of bytes.
        value: an element, of ``Var("byte")``.
        through: the tensors between them.
    """

    base: Tensor
    value: Expr
    through: tuple[Tensor, ...]


def tabulate_bytes(equations: Equations, rewrites: Rewrites, target: Target) -> Equations:
    """Look functions of single bytes up, where they are more than a few operations."""
    functions, tables = _functions(equations), dict[int, Tensor]()
    needed = {id(t) for _, t in equations.outputs}
    for tensor in reversed(equations.tensors):
        if id(tensor) not in needed or tensor.definition is None:
            continue
        found = functions.get(id(tensor))
        if found is not None and _pays(tensor, found) and rewrites.take(NAME):
            tables[id(tensor)] = _look_up(tensor, found, target)
        needed |= {id(s) for s in sources(tensor.definition)}
    if not tables:
        return equations
    kept = [t for t in equations.tensors if id(t) in needed]
    with_tables = [t for k in kept for t in (*([tables[id(k)]] if id(k) in tables else []), k)]
    return Equations(with_tables, equations.inputs, equations.outputs)


def _functions(equations: Equations) -> dict[int, _OfByte]:
    """Return which tensors are functions of single bytes, by identity."""
    functions: dict[int, _OfByte] = {}
    known: dict[int, _OfByte] = {}
    for tensor in equations.tensors:
        found = _of_byte(tensor, known)
        large = found is not None and sum(1 for _ in walk(found.value)) > MOST_NODES
        if found is not None:
            functions[id(tensor)] = found
        if found is not None and not large:
            known[id(tensor)] = found
        elif tensor.dtype in BYTES:
            known[id(tensor)] = _OfByte(tensor, Var(BYTE, tensor.dtype), ())
    return functions


def _pays(tensor: Tensor, found: _OfByte) -> bool:
    """Whether a function gives bytes and is more than requantisation; shared parts count once."""
    each = set(walk(found.value))
    return tensor.dtype in BYTES and sum(operation_work(e) for e in each) >= LEAST_WORK


def _of_byte(tensor: Tensor, known: dict[int, _OfByte]) -> _OfByte | None:
    """Return what a pointwise tensor is of one tensor of bytes, if it reads nothing else."""
    definition = tensor.definition
    if definition is None or definition.anchor is not None or definition.index:
        return None
    if concat_parts(tensor) is not None or any(
        isinstance(e, Guard | IndexValue | Var) for e in walk(definition.body)
    ):
        return None
    loads = definition.loads
    found = [known.get(id(e.source)) if at_own_place(e, definition) else None for e in loads]
    bases = {id(f.base) if f is not None else 0 for f in found}
    if len(bases) != 1 or found[0] is None:
        return None

    def rewrite(e: Expr) -> Expr:
        return known[id(e.source)].value if isinstance(e, Load) else e

    value = rewrite_leaves(definition.body, rewrite)
    between = {id(t): t for e in loads for t in (*known[id(e.source)].through, e.source)}
    between.pop(id(found[0].base), None)
    return _OfByte(found[0].base, value, tuple(between.values()))


def _look_up(tensor: Tensor, found: _OfByte, target: Target) -> Tensor:
    """Let a tensor look its elements up, and return the table."""
    definition, base = tensor.definition, found.base
    assert definition is not None
    values = _all_values(tensor, found)
    table = constant(
        f"{tensor.name}.table", values if target.byte_tables else values.astype(np.int32)
    )
    byte: Expr = base.at(*(var(a) for a in definition.axes))
    if base.dtype != "uint8":
        byte = Call("bitcast", (byte,), "uint8")
    body: Expr = table.at(Poly({(Opaque(byte),): 1}))
    if table.dtype != tensor.dtype:
        body = Call("cast", (body,), tensor.dtype)
    tensor.definition = Definition(definition.axes, body)
    for source in reversed(found.through):
        merge_origins(source, tensor)
    return table


def _all_values(tensor: Tensor, found: _OfByte) -> np.ndarray:
    """Return a function of all bytes, in the order of their bits."""
    given = np.arange(COUNT, dtype=np.uint8).view(numpy_dtype(found.base.dtype))
    each = constant("bytes", given)
    axes = axes_for((as_poly(COUNT),))
    load = each.at(var(axes[0]))
    body = rewrite_leaves(found.value, lambda e: load if isinstance(e, Var) else e)
    return evaluate_tensor(
        Tensor("table", each.shape, tensor.dtype, Definition(axes, body)), {}, {}
    )

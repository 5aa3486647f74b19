"""From a graph to kernels: equations, fusion, storage, and one kernel per equation that is left."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from whet.errors import CompileError
from whet.index import Poly, product, var
from whet.kernel.expr import Const, Expr, Load
from whet.kernel.recurrence import Recur, Recurrence
from whet.kernel.spec import Attention, Contraction, Kernel, Nest
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor, axes_for
from whet.lower.attention import build_attention
from whet.lower.build import Equations, OpTable, build_equations
from whet.lower.contractions import build_contraction
from whet.lower.fuse import fuse, work
from whet.lower.layout import Layout, choose_layout
from whet.lower.legalise import legalise
from whet.lower.nests import build_nest
from whet.lower.recurrences import build_recurrence, flops_of_recurrence
from whet.lower.storage import Root, Storage
from whet.lower.uses import rewrite_definition
from whet.ops.movement import concat_parts
from whet.target import Target

MAX_LAYOUTS = 4


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel and what it runs on.

    Attributes:
        kernel: specification.
        roots: memory of each parameter.
        nodes: names of the model's nodes that it computes.
        ops: their operator types.
        flops: floating-point operations.
    """

    kernel: Kernel
    roots: tuple[Root, ...]
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    flops: Poly


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model as kernels, in order, and what the caller gives and gets."""

    calls: tuple[KernelCall, ...]
    inputs: tuple[tuple[Tensor, Root], ...]
    outputs: tuple[tuple[str, Tensor, Root], ...]


def lower(model: ir.Model, table: OpTable, target: Target, *, level: int, threads: int) -> Lowered:
    """Turn an optimised graph into kernels.

    Raises:
        UnsupportedError: the model uses operators or types without a lowering.
    """
    equations = build_equations(model, table)
    _embed_scalars(equations)
    equations = fuse(equations, level=level)
    _separate_outputs(equations)
    layout = choose_layout(equations, share=level >= 1)
    for _ in range(MAX_LAYOUTS):
        if not legalise(equations, layout):
            break
        layout = choose_layout(equations, share=level >= 1)
    else:
        raise CompileError("operands stay illegal after copying them")
    calls: list[KernelCall] = []
    for tensor in equations.tensors:
        calls.extend(_calls(tensor, layout, target, threads))
    storages = layout.storages
    return Lowered(
        tuple(calls),
        tuple((t, _input_root(t, layout)) for t in equations.inputs),
        tuple((name, t, storages[id(t)].root) for name, t in equations.outputs),
    )


def _input_root(tensor: Tensor, layout: Layout) -> Root:
    if id(tensor) in layout.storages:
        return layout.storages[id(tensor)].root
    unused = Equations([tensor], [tensor], [])
    return choose_layout(unused, share=False).storages[id(tensor)].root


def _embed_scalars(equations: Equations) -> None:
    """Turn loads of one-element constants into numbers."""

    def rewrite(e: Expr) -> Expr:
        if isinstance(e, Load) and e.source.value is not None and e.source.value.size == 1:
            return Const(e.source.value.reshape(-1)[0].item(), e.dtype)
        return e

    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is not None and not isinstance(definition.anchor, Product | Recur):
            tensor.definition = rewrite_definition(definition, rewrite)


def _separate_outputs(equations: Equations) -> None:
    """Give every output a tensor of its own, computed in row-major order."""
    seen: set[int] = set()
    outputs: list[tuple[str, Tensor]] = []
    for name, tensor in equations.outputs:
        plain = tensor.definition is not None and id(tensor) not in seen
        reordered = bool(tensor.order) and tensor.order != tuple(range(tensor.rank))
        if plain and not (reordered and _moves(tensor)):
            seen.add(id(tensor))
            outputs.append((name, tensor))
            continue
        axes = axes_for(tensor.shape)
        body = tensor.at(*(var(a) for a in axes))
        copy = Tensor(
            name,
            tensor.shape,
            tensor.dtype,
            Definition(axes, body),
            nodes=tensor.nodes[:1],
            ops=("Copy",),
        )
        equations.tensors.append(copy)
        outputs.append((name, copy))
    equations.outputs[:] = outputs


def _moves(tensor: Tensor) -> bool:
    """Whether the preferred storage order differs from row-major for these extents."""
    kept = [d for d in tensor.order if tensor.shape[d] != 1]
    return kept != sorted(kept)


def _calls(tensor: Tensor, layout: Layout, target: Target, threads: int) -> list[KernelCall]:
    definition = tensor.definition
    if definition is None:
        return []
    if concat_parts(tensor) is not None:
        return [
            _call(tensor, _copy_of(part), place, layout, target, threads)
            for part, place in layout.copied_parts.get(id(tensor), [])
        ]
    return [_call(tensor, definition, layout.storages[id(tensor)], layout, target, threads)]


def _copy_of(part: Tensor) -> Definition:
    axes = axes_for(part.shape)
    return Definition(axes, part.at(*(var(a) for a in axes)))


def _call(
    tensor: Tensor,
    definition: Definition,
    storage: Storage,
    layout: Layout,
    target: Target,
    threads: int,
) -> KernelCall:
    kernel: Kernel
    if isinstance(definition.anchor, Product):
        kernel, params = build_contraction(definition, storage, layout.storages, target, threads)
    elif isinstance(definition.anchor, Attend):
        kernel, params = build_attention(definition, storage, layout.storages, target, threads)
    elif isinstance(definition.anchor, Recur):
        kernel, params = build_recurrence(definition, storage, layout.storages, target, threads)
    else:
        kernel, params = build_nest(definition, storage, layout.storages, target)
    return KernelCall(kernel, tuple(params.roots), tensor.nodes, tensor.ops, flops_of(definition))


def flops_of(definition: Definition) -> Poly:
    """Return the floating-point operations of a definition."""
    points = product(a.extent for a in definition.axes)
    anchor = definition.anchor
    if isinstance(anchor, Product):
        return points * product(t.extent for t in anchor.taps) * anchor.depth.extent * 2
    if isinstance(anchor, Attend):
        rows = product(a.extent for a in anchor.rows) * anchor.key.extent * 2
        return rows * (anchor.depth.extent + anchor.col.extent)
    if isinstance(anchor, Recur):
        return flops_of_recurrence(anchor)
    total = points * work(definition.body)
    for step in anchor.steps if isinstance(anchor, Steps) else ():
        kept = product(a.extent for a in definition.axes if step.body.depends_on(a))
        total = total + kept * product(a.extent for a in step.axes) * (work(step.body) + 1)
    return total


def kernel_kind(kernel: Kernel) -> str:
    """Return a short word for what a kernel is."""
    if isinstance(kernel, Contraction):
        return "contraction"
    if isinstance(kernel, Attention):
        return "attention"
    if isinstance(kernel, Recurrence):
        return "recurrence"
    assert isinstance(kernel, Nest)
    return "reduction" if kernel.steps else "map"

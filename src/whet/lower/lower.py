"""From a graph to kernels: equations, fusion, storage, and one kernel per equation that is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import onnx_ir as ir

from whet.errors import CompileError
from whet.index import var
from whet.kernel.expr import Const, Expr, Load
from whet.kernel.recurrence import Recur
from whet.kernel.schedules import Schedules
from whet.kernel.tensor import Definition, Product, Tensor, axes_for
from whet.limits import Budget
from whet.lower.add_products import add_products
from whet.lower.build import build_equations, plain_equations
from whet.lower.byte_tables import tabulate_bytes
from whet.lower.chains import Chaining, chain_products
from whet.lower.choose import choose_by_shape
from whet.lower.computed_copies import compute_in_copies
from whet.lower.equations import Equations
from whet.lower.fetch_ahead import fetch_ahead
from whet.lower.fold import FoldBudget, fold_equations
from whet.lower.fuse import fuse
from whet.lower.gate_products import gate_products
from whet.lower.in_place import update_in_place
from whet.lower.inlined_parts import inline_parts
from whet.lower.integer_winograd import winograd_bytes
from whet.lower.join_parts import join_parts
from whet.lower.join_writes import join_writes
from whet.lower.layout import Layout, choose_layout
from whet.lower.legalise import legalise
from whet.lower.merged_groups import merge_groups
from whet.lower.merged_terms import merge_terms
from whet.lower.outline import Item, Outline
from whet.lower.pair_products import pair_products
from whet.lower.pool_products import Pooling, pool_products
from whet.lower.quantised_norms import fuse_quantised_norms
from whet.lower.quantised_products import fuse_quantised_products
from whet.lower.reads import check_reads
from whet.lower.rewrites import rewrites_within
from whet.lower.saturation import saturate_steps
from whet.lower.scope import OpTable
from whet.lower.segments import Cut, cut_outline
from whet.lower.select import KernelCall, Selection
from whet.lower.shared_kernels import share_kernels
from whet.lower.storage import Root
from whet.lower.stored_bytes import store_bytes
from whet.lower.streamed_weights import stream_weights
from whet.lower.uses import rewrite_definition
from whet.lower.wide_operands import widen_operands
from whet.target import Target

MAX_LAYOUTS = 4
STREAM_LEVEL = 2
MERGE_LEVEL = 3
WIDEN_LEVEL = 1


class Lowered(msgspec.Struct, frozen=True):
    """A model as kernels, in order, and what the caller gives and gets."""

    calls: tuple[KernelCall, ...]
    inputs: tuple[tuple[Tensor, Root], ...]
    outputs: tuple[tuple[str, Tensor, Root], ...]


class LoweredScript(msgspec.Struct, frozen=True):
    """A model that a script runs: its parts as kernels, and how it was cut.

    Attributes:
        parts: the kernels of each part.
        cut: the script, and what each part was before.
        inputs: what the caller gives.
        outputs: what the caller gets, by name.
    """

    parts: tuple[Lowered, ...]
    cut: Cut
    inputs: tuple[Item, ...]
    outputs: tuple[tuple[str, Item], ...]


def lower(
    model: ir.Model, table: OpTable, target: Target, *, level: int, schedules: Schedules
) -> Lowered:
    """Turn an optimised graph that is one stretch of native code into kernels.

    Raises:
        UnsupportedError: the model uses operators or types without a lowering, or has control flow
            or sizes that depend on data.
    """
    equations = build_equations(model, table)
    return lower_equations(equations, target, level=level, schedules=schedules)


def lower_outlines(
    outlines: Sequence[Outline],
    target: Target,
    *,
    level: int,
    schedules: Schedules,
    expose: Collection[str] = (),
    budget: Budget | None = None,
) -> list[Lowered] | LoweredScript:
    """Turn a model into kernels, and a script around them where it needs one.

    Args:
        outlines: the model for any shapes, and once more for each of some shapes of its inputs.
        target: processor.
        level: optimisation level.
        schedules: schedules of products, and the threads that chunks are cut for.
        expose: names of values that become outputs too, as far as fusion leaves them in memory.
            They are copied when all is done, so that the kernels are those of the plain program;
            nothing is exposed where a script is needed.
        budget: time, memory and folded bytes of the compilation.

    Returns:
        The kernels of every translation, if none of them needs a script.

    Raises:
        UnsupportedError: the model uses operators or types without a lowering.
        ResourceError: the budget's time or memory is used up.
    """
    folding = FoldBudget(budget)
    plain = [plain_equations(outline) for outline in outlines]
    equations = [e for e in plain if e is not None]
    if len(equations) == len(plain):
        for e in equations:
            check_reads(e.tensors)
        return [
            lower_equations(
                e, target, level=level, schedules=schedules, expose=expose, folding=folding
            )
            for e in equations
        ]
    whole = outlines[0] if len(outlines) == 1 else choose_by_shape(outlines)
    cut = cut_outline(whole)
    for part in cut.parts:
        check_reads(part.equations.tensors)
    parts = tuple(
        lower_equations(p.equations, target, level=level, schedules=schedules, folding=folding)
        for p in cut.parts
    )
    return LoweredScript(parts, cut, tuple(whole.inputs), tuple(whole.outputs))


def lower_equations(
    equations: Equations,
    target: Target,
    *,
    level: int,
    schedules: Schedules,
    expose: Collection[str] = (),
    folding: FoldBudget | None = None,
) -> Lowered:
    """Turn equations into kernels; the equations are changed on the way. See ``lower_outlines``."""
    if level >= STREAM_LEVEL:
        stream_weights(equations)
    fold_equations(equations, folding)
    if level >= MERGE_LEVEL:
        merge_groups(equations, target.lanes)
    _embed_scalars(equations)
    rewrites = rewrites_within(schedules.rewrites)
    equations = fuse(tabulate_bytes(equations, rewrites, target), level=level)
    equations = fuse_quantised_norms(equations, rewrites)
    equations = fuse_quantised_products(equations, rewrites, target)
    equations = merge_terms(inline_parts(equations, rewrites))
    equations = add_products(equations, rewrites, target)
    equations = gate_products(equations, rewrites, target)
    equations = store_bytes(equations, rewrites)
    if level >= WIDEN_LEVEL:
        widen_operands(equations, target)
    _separate_outputs(equations)
    _expose(equations, expose)
    layout = choose_layout(equations, share=level >= 1)
    filtered = winograd_bytes(equations, rewrites, target, schedules)
    for _ in range(MAX_LAYOUTS):
        selection = Selection(layout, target, schedules, level, filtered)
        if not legalise(equations, layout, selection.stays, selection.dot_size):
            break
        layout = choose_layout(equations, share=level >= 1)
    else:
        raise CompileError("operands stay illegal after copying them")
    compute_in_copies(equations, rewrites)
    saturate_steps(equations)
    calls: list[KernelCall] = []
    for tensor in equations.tensors:
        calls.extend(selection.calls(tensor))
    storages = layout.storages
    kept = [storages[id(t)].root for _, t in equations.outputs]
    calls = join_writes(join_parts(calls, rewrites), rewrites)
    calls = pair_products(calls, target, schedules, rewrites)
    calls = fetch_ahead(calls, target, schedules.threads, rewrites)
    calls = pool_products(calls, kept, Pooling(target, schedules.threads, rewrites))
    calls = chain_products(calls, kept, Chaining(target, schedules.threads, rewrites))
    calls = share_kernels(update_in_place(calls, kept, rewrites), rewrites)
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
        copy = _copy(name, tensor)
        equations.tensors.append(copy)
        outputs.append((name, copy))
    equations.outputs[:] = outputs


def _copy(name: str, tensor: Tensor) -> Tensor:
    axes = axes_for(tensor.shape)
    body = tensor.at(*(var(a) for a in axes))
    definition = Definition(axes, body)
    return Tensor(
        name, tensor.shape, tensor.dtype, definition, nodes=tensor.nodes[:1], ops=("Copy",)
    )


def _expose(equations: Equations, names: Collection[str]) -> None:
    """Copy computed tensors of these names to outputs of their own."""
    given = {name for name, _ in equations.outputs}
    for tensor in list(equations.tensors):
        if tensor.name in names and tensor.name not in given and tensor.definition is not None:
            copy = _copy(tensor.name, tensor)
            equations.tensors.append(copy)
            equations.outputs.append((tensor.name, copy))


def _moves(tensor: Tensor) -> bool:
    """Whether the preferred storage order differs from row-major for these extents."""
    kept = [d for d in tensor.order if tensor.shape[d] != 1]
    return kept != sorted(kept)

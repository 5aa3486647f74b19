"""From the kernels of several parts to one program: one weights section, one table of launches."""

from __future__ import annotations

from msgspec.structs import replace

from whet.index import Dim, Poly
from whet.kernel.spec import Kernel
from whet.kernel.tensor import Tensor
from whet.lower.assemble import (
    Assembled,
    BufferTable,
    aligned_bytes,
    capacity,
    check_sizes,
    make_launches,
    make_spec,
    settled,
)
from whet.lower.lower import Lowered, LoweredScript
from whet.lower.outline import Form, Held, Item
from whet.lower.room import Room
from whet.lower.segments import PartEquations
from whet.lower.storage import constant_root
from whet.program.records import Launch, Part, Program, TargetInfo, TensorSpec
from whet.program.script import (
    Block,
    ConstantSlot,
    Expect,
    Loop,
    Read,
    Require,
    Script,
    all_blocks,
)
from whet.target import Target


def assemble_script(
    lowered: LoweredScript, target: Target, *, threads: int, reuse: bool, room: Room | None = None
) -> Assembled:
    """Number buffers, pack weights and name kernels; equal kernels of all parts are one.

    ``room`` is where the weights go.
    """
    for part in lowered.parts:
        check_sizes(part)
    cut = lowered.cut
    own = sum(aligned_bytes(t.value.nbytes) for _, t in cut.constants if t.value is not None)
    table = BufferTable(capacity(lowered.parts) + own, room)
    names: dict[Kernel, str] = {}
    launches: list[Launch] = []
    parts: list[Part] = []
    for before, part in zip(cut.parts, lowered.parts, strict=True):
        parts.append(_part(before, part, table, len(launches)))
        made = make_launches(part.calls, table, names, target)
        launches += [replace(k, waits=k.waits or n == 0) for n, k in enumerate(made)]
        parts[-1] = replace(parts[-1], end=len(launches))
    constants = tuple(_constant(slot, tensor, table) for slot, tensor in cut.constants)
    script = Script(cut.slots, constants, cut.main)
    program = Program(
        inputs=tuple(_spec(item.name, item) for item in lowered.inputs),
        outputs=tuple(_spec(name, item) for name, item in lowered.outputs),
        input_shapes=settled(_shape(item) for item in lowered.inputs),
        output_shapes=tuple(_shape(item) for _, item in lowered.outputs),
        dims=_dims(lowered, script),
        buffers=tuple(table.buffers),
        launches=tuple(launches),
        threads=threads,
        target=TargetInfo(target.triple, target.cpu, target.required),
        reuse=reuse,
        parts=tuple(parts),
        script=script,
    )
    return Assembled(program, table, {name: kernel for kernel, name in names.items()})


def _part(before: PartEquations, part: Lowered, table: BufferTable, begin: int) -> Part:
    return Part(
        begin=begin,
        end=begin,
        inputs=tuple(table.add(root) for _, root in part.inputs),
        outputs=tuple(table.add(root) for _, _, root in part.outputs),
        output_shapes=tuple(t.shape for _, t, _ in part.outputs),
        output_dtypes=tuple(t.dtype for _, t, _ in part.outputs),
        dims=before.dims,
    )


def _constant(slot: int, tensor: Tensor, table: BufferTable) -> ConstantSlot:
    assert tensor.value is not None, "only constants have a slot of their own"
    number = table.add(constant_root(tensor))
    return ConstantSlot(slot, tensor.dtype, tensor.value.shape, table.buffers[number].offset)


def _spec(name: str, item: Item) -> TensorSpec:
    if isinstance(item, Held):
        return TensorSpec(name, _type_name(item), ())
    return make_spec(name, item.dtype, item.shape)


def _type_name(item: Form | Held | None) -> str:
    """Return a type such as ``sequence(float32)``."""
    if item is None:
        return "?"
    if isinstance(item, Form):
        return item.dtype
    inner = _type_name(item.element)
    return inner if item.kind == "text" else f"{item.kind}({inner})"


def _shape(item: Item) -> tuple[Poly, ...]:
    return () if isinstance(item, Held) else item.shape


def _dims(lowered: LoweredScript, script: Script) -> tuple[str, ...]:
    names = {name for part in lowered.cut.parts for name in part.dims}
    for item in (*lowered.inputs, *(item for _, item in lowered.outputs)):
        names |= _names(_shape(item))
    for block in all_blocks(script.main):
        names |= _bound(block)
    return tuple(sorted(names))


def _bound(block: Block) -> set[str]:
    names: set[str] = set()
    for step in block.steps:
        if isinstance(step, Read):
            names |= set(step.dims)
        elif isinstance(step, Expect):
            names |= set(step.binds) | _names(step.shape)
        elif isinstance(step, Require):
            names |= _names((step.left, step.right))
        elif isinstance(step, Loop):
            names |= {name for c in step.collects for name in _names(c.shape)}
    return names


def _names(polys: tuple[Poly, ...]) -> set[str]:
    return {a.name for p in polys for a in p.atoms if isinstance(a, Dim)}

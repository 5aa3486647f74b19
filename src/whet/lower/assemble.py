"""From kernels to a program: buffers, weights, launches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from whet.codegen.kinds.table import KINDS
from whet.dtypes import numpy_dtype
from whet.errors import ShapeError
from whet.index import ZERO, Atom, Dim, Poly, var
from whet.kernel.spec import Contraction, Kernel
from whet.lower.copying import Copies, sampled_digest
from whet.lower.extent_text import extent_text
from whet.lower.lower import Lowered
from whet.lower.room import Room
from whet.lower.select import KernelCall, kernel_kind
from whet.lower.storage import Root
from whet.program.records import (
    Buffer,
    BufferKind,
    Launch,
    Program,
    TargetInfo,
    TensorSpec,
)
from whet.program.schedule import assign_waits
from whet.program.scratch import assign_scratch
from whet.target import Target

ALIGNMENT = 64
MAX_BYTES = 1 << 46
"""Half of the memory that a process can address; an offset in it never overflows."""


class Assembled(msgspec.Struct, frozen=True):
    """A program with its weights and the kernels that its launches name.

    Attributes:
        program: buffers and launches.
        table: has the weights.
        kernels: by the name that launches call them.
    """

    program: Program
    table: BufferTable
    kernels: dict[str, Kernel]

    @property
    def weights(self) -> np.ndarray:
        """The weights section; waits for copies that are still under way."""
        return self.table.weights


def assemble(
    lowered: Lowered, target: Target, *, threads: int, reuse: bool, room: Room | None = None
) -> Assembled:
    """Number buffers, pack weights and name kernels; ``room`` is where the weights go."""
    check_sizes(lowered)
    table = BufferTable(capacity([lowered]), room)
    for _, root in lowered.inputs:
        table.add(root)
    for _, _, root in lowered.outputs:
        table.add(root)
    names: dict[Kernel, str] = {}
    launches = make_launches(lowered.calls, table, names, target)
    program = Program(
        inputs=tuple(make_spec(t.name, t.dtype, t.shape) for t, _ in lowered.inputs),
        outputs=tuple(make_spec(name, t.dtype, t.shape) for name, t, _ in lowered.outputs),
        input_shapes=settled(t.shape for t, _ in lowered.inputs),
        output_shapes=tuple(t.shape for _, t, _ in lowered.outputs),
        dims=_dims(t.shape for t, _ in lowered.inputs),
        buffers=tuple(table.buffers),
        launches=launches,
        threads=threads,
        target=TargetInfo(target.triple, target.cpu, target.required),
        reuse=reuse,
    )
    return Assembled(program, table, {name: kernel for kernel, name in names.items()})


def settled(
    shapes: Iterable[tuple[Poly, ...]], also: Iterable[tuple[Poly, ...]] = ()
) -> tuple[tuple[Poly, ...], ...]:
    """Return shapes of inputs in which each dimension has the least value that a run may give it.

    Args:
        shapes: shapes, when all kernels are made: then it is known what was counted on.
        also: shapes of the same inputs in other translations of the model.
    """
    given = list(shapes)
    dims = {a for s in (*given, *also) for p in s for a in p.atoms if isinstance(a, Dim)}
    needed = {d.name for d in dims if d.counted_on is None or d.name in d.counted_on}
    least: dict[Atom, Poly] = {d: var(Dim(d.name, min(d.least, d.name in needed))) for d in dims}
    return tuple(tuple(p.substitute(least) for p in shape) for shape in given)


def check_sizes(lowered: Lowered) -> None:
    """Check that no tensor is larger than memory can be.

    Raises:
        ShapeError: one is.
    """
    roots = (root for call in lowered.calls for root in call.roots)
    for root in roots:
        size = root.size_bytes.constant
        if size is not None and size > MAX_BYTES:
            raise ShapeError(
                f"the tensor has {size} bytes, more than a process can hold",
                where=root.name,
                hint="check the dims of the inputs, and constants that are shapes",
            )


def capacity(parts: Iterable[Lowered]) -> int:
    """Return a size that the weights do not exceed."""
    calls = (call for lowered in parts for call in lowered.calls)
    roots = {id(r): r for call in calls for r in call.roots if r.make is not None}
    return sum(aligned_bytes(r.size_bytes.constant or 0) for r in roots.values())


def aligned_bytes(size: int) -> int:
    """Return a size rounded up to whole cache lines, at least one."""
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def make_spec(name: str, dtype: str, shape: tuple[Poly, ...]) -> TensorSpec:
    """Return what the caller sees of an input or output."""
    return TensorSpec(name, dtype, tuple(_extent(p) for p in shape))


def _extent(p: Poly) -> int | str:
    return extent_text(p) if p.constant is None else p.constant


def _dims(shapes: Iterable[tuple[Poly, ...]]) -> tuple[str, ...]:
    found = {a.name for shape in shapes for p in shape for a in p.atoms if isinstance(a, Dim)}
    return tuple(sorted(found))


class BufferTable:
    """Numbers memory roots and packs constants; equal ones share one place in the weights."""

    def __init__(self, capacity: int, room: Room | None = None) -> None:
        self.buffers: list[Buffer] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Root] = []
        self._constants: dict[tuple[str, str], list[int]] = {}
        self._section = (room or Room(capacity)).take(capacity)
        self._copies = Copies()
        self._size = 0

    def add(self, root: Root) -> int:
        """Return the number of a root, adding it at first sight."""
        known = self._numbers.get(id(root))
        if known is not None:
            return known
        number = self._constant(root) if root.kind == BufferKind.CONSTANT else self._plain(root, 0)
        self._numbers[id(root)] = number
        self._kept.append(root)
        return number

    def _plain(self, root: Root, offset: int) -> int:
        self.buffers.append(Buffer(root.kind, root.size_bytes, root.name, offset, root.content))
        return len(self.buffers) - 1

    def _constant(self, root: Root) -> int:
        """Begin to write a constant behind the others; it stays unless an equal one is known."""
        assert root.make is not None and root.size_bytes.constant is not None
        size = root.size_bytes.constant
        place = self._section[self._size : self._size + size]
        value, dtype = root.make(), numpy_dtype(root.dtype)
        self._copies.start(place.view(dtype).reshape(value.shape), value)
        known = self._constants.setdefault((root.dtype, sampled_digest(value, dtype)), [])
        if known:
            self._copies.finish()
        for number in known:
            offset = self.buffers[number].offset
            if np.array_equal(self._section[offset : offset + size], place):
                place[...] = 0
                return number
        number = self._plain(root, self._size)
        known.append(number)
        self._size += aligned_bytes(size)
        return number

    @property
    def weights(self) -> np.ndarray:
        """The weights section, complete."""
        self._copies.finish()
        return self._section[: self._size]


def make_launches(
    calls: Sequence[KernelCall], table: BufferTable, names: dict[Kernel, str], target: Target
) -> tuple[Launch, ...]:
    """Return the launches of kernels that run in order, with barriers and scratch memory."""
    made = [_make_launch(call, table, names, target) for call in calls]
    kernels = {names[call.kernel]: call.kernel for call in calls}
    needs = {name: KINDS[type(k)].scratch(k, target.lanes) for name, k in kernels.items()}
    return assign_scratch(assign_waits(made, table.buffers), table.buffers, needs)


def _make_launch(
    call: KernelCall, table: BufferTable, names: dict[Kernel, str], target: Target
) -> Launch:
    """Return the launch of a kernel; equal kernels get one name."""
    kernel = call.kernel
    name = names.setdefault(kernel, f"{kernel_kind(kernel)}_{len(names)}")
    args = tuple(table.add(root) for root in call.roots)
    ahead = kernel.ahead if isinstance(kernel, Contraction) else None
    moved = ZERO
    for number, root in enumerate(call.roots):
        if ahead is None or number != ahead.param:
            moved = moved + root.size_bytes
    return Launch(
        kernel=name,
        args=args,
        writes=tuple(k for k, p in enumerate(kernel.params) if p.written),
        chunks=KINDS[type(kernel)].chunks(kernel, target.lanes),
        waits=False,
        nodes=call.nodes,
        ops=call.ops,
        flops=call.flops,
        bytes=moved,
        fetched=() if ahead is None else (ahead.param,),
    )

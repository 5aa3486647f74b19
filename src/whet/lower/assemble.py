"""From kernels to a program: buffers, weights, launches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from whet.codegen.kernels import KINDS
from whet.index import ZERO, Dim, Poly
from whet.kernel.spec import Kernel
from whet.lower.lower import Lowered
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
from whet.target import Target

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Assembled:
    """A program with its weights and the kernels that its launches name."""

    program: Program
    weights: np.ndarray
    kernels: dict[str, Kernel]


def assemble(lowered: Lowered, target: Target, *, threads: int, reuse: bool) -> Assembled:
    """Number buffers, pack weights and name kernels."""
    table = _Buffers()
    for _, root in lowered.inputs:
        table.add(root)
    for _, _, root in lowered.outputs:
        table.add(root)
    names: dict[Kernel, str] = {}
    launches = [_launch(call, table, names, target) for call in lowered.calls]
    program = Program(
        inputs=tuple(_spec(t.name, t.dtype, t.shape) for t, _ in lowered.inputs),
        outputs=tuple(_spec(name, t.dtype, t.shape) for name, t, _ in lowered.outputs),
        input_shapes=tuple(t.shape for t, _ in lowered.inputs),
        output_shapes=tuple(t.shape for _, t, _ in lowered.outputs),
        dims=_dims(t.shape for t, _ in lowered.inputs),
        buffers=tuple(table.buffers),
        launches=assign_waits(launches, table.buffers),
        scratch_bytes=max((KINDS[type(k)].scratch(k, target.lanes) for k in names), default=0),
        threads=threads,
        target=TargetInfo(target.triple, target.cpu, target.required),
        reuse=reuse,
    )
    return Assembled(program, table.weights(), {name: kernel for kernel, name in names.items()})


def _spec(name: str, dtype: str, shape: tuple[Poly, ...]) -> TensorSpec:
    return TensorSpec(name, dtype, tuple(_extent(p) for p in shape))


def _extent(p: Poly) -> int | str:
    if p.constant is not None:
        return p.constant
    atoms = p.atoms
    if len(atoms) == 1 and len(p.terms) == 1 and p.terms[0][1] == 1:
        only = next(iter(atoms))
        if isinstance(only, Dim):
            return only.name
    return str(p)


def _dims(shapes: Iterable[tuple[Poly, ...]]) -> tuple[str, ...]:
    found = {a.name for shape in shapes for p in shape for a in p.atoms if isinstance(a, Dim)}
    return tuple(sorted(found))


class _Buffers:
    """Numbers memory roots; equal constants share one place in the weights."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Root] = []
        self._constants: dict[bytes, int] = {}
        self._values: list[tuple[int, np.ndarray]] = []
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
        self.buffers.append(Buffer(root.kind, root.size_bytes, root.name, offset))
        return len(self.buffers) - 1

    def _constant(self, root: Root) -> int:
        assert root.value is not None
        value = np.ascontiguousarray(root.value)
        key = hashlib.blake2b(value.reshape(-1).view(np.uint8).data, digest_size=16)
        key.update(f"{value.dtype}".encode())
        known = self._constants.get(key.digest())
        if known is not None:
            return known
        number = self._plain(root, self._size)
        self._constants[key.digest()] = number
        self._values.append((self._size, value))
        self._size += -(-max(value.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        return number

    def weights(self) -> np.ndarray:
        """Return the weights section."""
        raw = np.zeros(self._size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        section = raw[start : start + self._size]
        for offset, value in self._values:
            section[offset : offset + value.nbytes] = value.reshape(-1).view(np.uint8)
        return section


def _launch(call: KernelCall, table: _Buffers, names: dict[Kernel, str], target: Target) -> Launch:
    kernel = call.kernel
    name = names.setdefault(kernel, f"{kernel_kind(kernel)}_{len(names)}")
    args = tuple(table.add(root) for root in call.roots)
    moved = ZERO
    for root in call.roots:
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
    )

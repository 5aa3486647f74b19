"""One program that does its work in several ways: for any shapes, and for some of them faster."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from whet.errors import ShapeError
from whet.index import Dim, Poly
from whet.kernel.spec import Kernel
from whet.lower.assemble import (
    Assembled,
    BufferTable,
    capacity,
    check_sizes,
    make_launches,
    make_spec,
    settled,
)
from whet.lower.lower import Lowered
from whet.lower.room import Room
from whet.program.records import Launch, Part, Program, TargetInfo
from whet.target import Target


class Build(msgspec.Struct, frozen=True):
    """What all variants are assembled for.

    Attributes:
        target: processor.
        threads: default number of threads.
        reuse: whether temporaries may share memory.
        room: where the weights go.
    """

    target: Target
    threads: int
    reuse: bool
    room: Room | None = None


def assemble_variants(whole: Lowered, others: Sequence[Lowered], build: Build) -> Assembled:
    """Number buffers, pack weights and name kernels of several translations of one model.

    Equal kernels and equal constants of all variants are one.

    Args:
        whole: the model for any shapes.
        others: the model for some shapes of its inputs.
        build: what it is for.

    Raises:
        ShapeError: a variant has dimensions that the whole model does not have.
    """
    target = build.target
    table = BufferTable(capacity([whole, *others]), build.room)
    names: dict[Kernel, str] = {}
    launches: list[Launch] = []
    parts: list[Part] = []
    for lowered in (whole, *others):
        check_sizes(lowered)
        begin = len(launches)
        inputs = tuple(table.add(root) for _, root in lowered.inputs)
        outputs = tuple(table.add(root) for _, _, root in lowered.outputs)
        made = make_launches(lowered.calls, table, names, target)
        launches += [replace(k, waits=k.waits or n == 0) for n, k in enumerate(made)]
        parts.append(
            Part(
                begin=begin,
                end=len(launches),
                inputs=inputs,
                outputs=outputs,
                output_shapes=tuple(t.shape for _, t, _ in lowered.outputs),
                output_dtypes=tuple(t.dtype for _, t, _ in lowered.outputs),
                dims=_dims(lowered),
                when=_shapes(lowered) if parts else (),
            )
        )
    dims = parts[0].dims
    for part in parts[1:]:
        unknown = sorted(set(part.dims) - set(dims))
        if unknown:
            raise ShapeError(
                f"the dimension {unknown[0]!r} is open in one shape only",
                where="shapes",
                hint=f"open dimensions of the model: {', '.join(dims) or 'none'}",
            )
    program = Program(
        inputs=tuple(make_spec(t.name, t.dtype, t.shape) for t, _ in whole.inputs),
        outputs=tuple(make_spec(name, t.dtype, t.shape) for name, t, _ in whole.outputs),
        input_shapes=settled(
            (t.shape for t, _ in whole.inputs),
            (t.shape for other in others for t, _ in other.inputs),
        ),
        output_shapes=tuple(t.shape for _, t, _ in whole.outputs),
        dims=dims,
        buffers=tuple(table.buffers),
        launches=tuple(launches),
        threads=build.threads,
        target=TargetInfo(target.triple, target.cpu, target.required),
        reuse=build.reuse,
        parts=tuple(parts),
    )
    return Assembled(program, table, {name: kernel for kernel, name in names.items()})


def _dims(lowered: Lowered) -> tuple[str, ...]:
    polys = (p for tensor, _ in lowered.inputs for p in tensor.shape)
    return tuple(sorted({a.name for p in polys for a in p.atoms if isinstance(a, Dim)}))


def _shapes(lowered: Lowered) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(_extent, tensor.shape)) for tensor, _ in lowered.inputs)


def _extent(p: Poly) -> int:
    return -1 if p.constant is None else p.constant

"""The manifest of a ``.whet`` file: a program as strict, canonical JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from whet.dtypes import numpy_dtype
from whet.errors import ArtifactError
from whet.index import Poly
from whet.options import MOST_THREADS
from whet.program.contents import NO_CONTENT, ContentRow, content_at, contents_of
from whet.program.polynomials import from_json
from whet.program.records import (
    NO_SCRATCH,
    Buffer,
    BufferKind,
    Launch,
    Part,
    Program,
    TargetInfo,
    TensorSpec,
)

if TYPE_CHECKING:
    from whet.program.script import Script

IN_PLACE = "scatter_"
"""Kernels that may change an input of the program: scatters into a cache."""

NO_SCRIPT = b"null"
"""What a manifest has in the place of a script."""

_MOST_BYTES = 2**47


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records in the manifest; a program takes their tuples over as they are."""


class TensorRow(_Row, frozen=True):
    """An input or output; ``axes`` is its shape as polynomials."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: tuple[Any, ...]


class BufferRow(_Row, frozen=True, omit_defaults=True):
    """One buffer; ``content`` numbers the manifest's contents."""

    kind: BufferKind
    name: str
    size: Any
    offset: int
    content: int = NO_CONTENT


class LaunchRow(_Row, frozen=True, omit_defaults=True):
    """One launch."""

    kernel: str
    args: tuple[int, ...]
    writes: tuple[int, ...]
    chunks: Any
    waits: bool
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    flops: Any
    bytes: Any
    fetched: tuple[int, ...] = ()
    scratch: int = NO_SCRATCH


class PartRow(_Row, frozen=True):
    """One part."""

    begin: int
    end: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[Any, ...], ...]
    dtypes: tuple[str, ...]
    dims: tuple[str, ...]
    when: tuple[tuple[int, ...], ...]


class TargetRow(_Row, frozen=True):
    """What the code needs of a CPU."""

    triple: str
    cpu: str
    features: tuple[str, ...]


class SectionRow(_Row, frozen=True):
    """Where a section lies in the file, and the digest of its bytes."""

    name: str
    offset: int
    size: int
    digest: str


class Manifest(_Row, frozen=True, omit_defaults=True):
    """Everything in a ``.whet`` file but the sections' bytes.

    What has a default came with format 2.1 or 2.2; older files lack it. ``script`` stays JSON until
    it is known to be one: most programs have none, and its records need not be imported for them.
    """

    inputs: list[TensorRow]
    outputs: list[TensorRow]
    dims: list[str]
    buffers: list[BufferRow]
    launches: list[LaunchRow]
    parts: list[PartRow]
    script: msgspec.Raw
    scratch_bytes: int
    threads: int
    reuse: bool
    target: TargetRow
    symbols: dict[str, int]
    sections: list[SectionRow]
    metadata: dict[str, str]
    contents: list[ContentRow] = []


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the one encoding that a manifest has."""
    return msgspec.json.encode(manifest, order="deterministic")


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Read a manifest; unknown, missing, repeated and mistyped fields are errors.

    Raises:
        ArtifactError: the bytes are not what ``encode_manifest`` writes.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(f"damaged manifest: {error}") from error
    if encode_manifest(manifest) != data:
        raise ArtifactError("damaged manifest: not in canonical form")
    return msgspec.structs.replace(manifest, script=manifest.script.copy())


def program_of(manifest: Manifest) -> Program:
    """Return the program of a manifest, all indices, names and sizes checked.

    Raises:
        ArtifactError: the manifest contradicts itself.
    """
    try:
        program = _build_program(manifest)
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise ArtifactError(f"damaged manifest: {error}") from error
    sizes = {section.name: section.size for section in manifest.sections}
    problem = (
        _name_problem(program)
        or _launch_problem(program)
        or _memory_problem(program, sizes.get("weights", 0))
        or _script_problem(program, sizes.get("weights", 0))
        or _range_problem(manifest, sizes.get("code", 0))
    )
    if problem:
        raise ArtifactError(f"damaged manifest: {problem}")
    return program


def _build_program(manifest: Manifest) -> Program:
    target, contents = manifest.target, contents_of(manifest.contents)
    return Program(
        inputs=_specs(manifest.inputs),
        outputs=_specs(manifest.outputs),
        input_shapes=_shapes(manifest.inputs),
        output_shapes=_shapes(manifest.outputs),
        dims=tuple(manifest.dims),
        buffers=tuple(
            Buffer(
                row.kind,
                from_json(row.size),
                row.name,
                row.offset,
                content_at(contents, row.content),
            )
            for row in manifest.buffers
        ),
        launches=tuple(_launch(row) for row in manifest.launches),
        scratch_bytes=manifest.scratch_bytes,
        threads=manifest.threads,
        target=TargetInfo(target.triple, target.cpu, target.features),
        reuse=manifest.reuse,
        parts=tuple(_part(row) for row in manifest.parts),
        script=_script(manifest.script),
    )


def _script(data: msgspec.Raw) -> Script | None:
    if bytes(data) == NO_SCRIPT:
        return None
    from whet.program.script_json import decode_script

    return decode_script(bytes(data))


def _launch(row: LaunchRow) -> Launch:
    return Launch(
        kernel=row.kernel,
        args=row.args,
        writes=row.writes,
        chunks=from_json(row.chunks),
        waits=row.waits,
        nodes=row.nodes,
        ops=row.ops,
        flops=from_json(row.flops),
        bytes=from_json(row.bytes),
        fetched=row.fetched,
        scratch=row.scratch,
    )


def _part(row: PartRow) -> Part:
    return Part(
        begin=row.begin,
        end=row.end,
        inputs=row.inputs,
        outputs=row.outputs,
        output_shapes=tuple(tuple(from_json(axis) for axis in axes) for axes in row.shapes),
        output_dtypes=row.dtypes,
        dims=row.dims,
        when=row.when,
    )


def _specs(rows: Iterable[TensorRow]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(row.name, row.dtype, row.shape) for row in rows)


def _shapes(rows: Iterable[TensorRow]) -> tuple[tuple[Poly, ...], ...]:
    return tuple(tuple(from_json(axis) for axis in row.axes) for row in rows)


def _name_problem(program: Program) -> str:
    for what, names in (
        ("input", [spec.name for spec in program.inputs]),
        ("output", [spec.name for spec in program.outputs]),
        ("dimension", list(program.dims)),
    ):
        if len(set(names)) != len(names):
            return f"{what} names are not unique"
    for spec, axes in zip(
        program.inputs + program.outputs,
        program.input_shapes + program.output_shapes,
        strict=True,
    ):
        if len(spec.shape) != len(axes):
            return f"the shape of {spec.name!r} has two ranks"
        known = _is_type(spec.dtype) or (program.script is not None and _is_held(spec.dtype))
        if not known:
            return f"{spec.name!r} has the unknown type {spec.dtype!r}"
    kinds = {buffer.content.dtype for buffer in program.buffers if buffer.content is not None}
    unknown = sorted(kind for kind in kinds if not _is_type(kind))
    return f"a buffer has the unknown type {unknown[0]!r}" if unknown else ""


def _is_type(name: str) -> bool:
    try:
        return numpy_dtype(name).name == name
    except (TypeError, AttributeError):
        return False


def _is_held(kind: str) -> bool:
    from whet.program.check_script import is_held_type

    return is_held_type(kind)


def _script_problem(program: Program, weights: int) -> str:
    """Return what is wrong with parts and script; those checks are imported where there are any."""
    if program.script is None and not program.parts:
        return ""
    from whet.program.check_script import script_problem

    return script_problem(program, weights)


def _launch_problem(program: Program) -> str:
    count = len(program.buffers)
    for number, launch in enumerate(program.launches):
        if not all(0 <= index < count for index in launch.args):
            return f"launch {number} uses a buffer that does not exist"
        if not all(0 <= position < len(launch.args) for position in launch.writes):
            return f"launch {number} writes an argument that does not exist"
        if not all(0 <= position < len(launch.args) for position in launch.fetched):
            return f"launch {number} fetches an argument that does not exist"
        for position in launch.writes:
            kind = program.buffers[launch.args[position]].kind
            in_place = kind is BufferKind.INPUT and launch.kernel.startswith(IN_PLACE)
            if kind in (BufferKind.CONSTANT, BufferKind.INPUT) and not in_place:
                return f"launch {number} writes a buffer of kind {kind}"
    return _scratch_problem(program)


def _scratch_problem(program: Program) -> str:
    """Return what is wrong with scratch memory, which has one size and is nothing else."""
    scratch = {n for n, b in enumerate(program.buffers) if b.kind is BufferKind.SCRATCH}
    for number, launch in enumerate(program.launches):
        if launch.scratch != NO_SCRATCH and launch.scratch not in scratch:
            return f"launch {number} has no scratch memory in buffer {launch.scratch}"
        if not scratch.isdisjoint(launch.args):
            return f"launch {number} uses scratch memory that may belong to another one"
    open_sizes = [n for n in sorted(scratch) if program.buffers[n].size_bytes.constant is None]
    return f"the scratch memory in buffer {open_sizes[0]} has no one size" if open_sizes else ""


def _memory_problem(program: Program, weights: int) -> str:
    for number, buffer in enumerate(program.buffers):
        size = buffer.size_bytes.constant
        if size is not None and not 0 <= size < _MOST_BYTES:
            return f"buffer {number} has {size} bytes"
        if buffer.kind is not BufferKind.CONSTANT:
            continue
        if size is None or buffer.offset % 64 or not 0 <= buffer.offset <= weights - size:
            return f"constant {number} lies outside the weights or off the grid"
    return ""


def _range_problem(manifest: Manifest, code: int) -> str:
    if not 0 <= manifest.scratch_bytes < _MOST_BYTES:
        return f"scratch memory of {manifest.scratch_bytes} bytes"
    if not 0 <= manifest.threads <= MOST_THREADS:
        return f"{manifest.threads} threads"
    if not all(0 <= offset < code for offset in manifest.symbols.values()):
        return "a function lies outside the code"
    return ""

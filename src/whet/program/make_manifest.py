"""The manifest of a program that is to be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from whet.index import Poly
from whet.program.contents import NO_CONTENT, content_rows, number_contents
from whet.program.manifest import (
    NO_SCRIPT,
    BufferRow,
    LaunchRow,
    Manifest,
    PartRow,
    SectionRow,
    TargetRow,
    TensorRow,
)
from whet.program.polynomials import to_json
from whet.program.records import Buffer, Content, Launch, Part, Program, TensorSpec
from whet.program.script_json import encode_script


def make_manifest(
    program: Program,
    symbols: Mapping[str, int],
    sections: Sequence[SectionRow],
    metadata: Mapping[str, str],
) -> Manifest:
    """Return the manifest of a program."""
    target, contents = program.target, number_contents(program.buffers)
    return Manifest(
        inputs=_tensor_rows(program.inputs, program.input_shapes),
        outputs=_tensor_rows(program.outputs, program.output_shapes),
        dims=list(program.dims),
        buffers=[_buffer_row(b, contents) for b in program.buffers],
        launches=[_launch_row(launch) for launch in program.launches],
        parts=[_part_row(part) for part in program.parts],
        script=msgspec.Raw(NO_SCRIPT if program.script is None else encode_script(program.script)),
        scratch_bytes=program.scratch_bytes,
        threads=program.threads,
        reuse=program.reuse,
        target=TargetRow(target.triple, target.cpu, target.features),
        symbols=dict(symbols),
        sections=list(sections),
        metadata=dict(metadata),
        contents=content_rows(contents),
    )


def _tensor_rows(specs: Sequence[TensorSpec], shapes: Sequence[Sequence[Poly]]) -> list[TensorRow]:
    return [
        TensorRow(s.name, s.dtype, s.shape, tuple(to_json(axis) for axis in axes))
        for s, axes in zip(specs, shapes, strict=True)
    ]


def _buffer_row(buffer: Buffer, contents: Mapping[Content, int]) -> BufferRow:
    content = NO_CONTENT if buffer.content is None else contents[buffer.content]
    size = to_json(buffer.size_bytes)
    return BufferRow(buffer.kind, buffer.name, size, buffer.offset, content)


def _launch_row(launch: Launch) -> LaunchRow:
    return LaunchRow(
        kernel=launch.kernel,
        args=launch.args,
        writes=launch.writes,
        chunks=to_json(launch.chunks),
        waits=launch.waits,
        nodes=launch.nodes,
        ops=launch.ops,
        flops=to_json(launch.flops),
        bytes=to_json(launch.bytes),
        fetched=launch.fetched,
        scratch=launch.scratch,
    )


def _part_row(part: Part) -> PartRow:
    return PartRow(
        begin=part.begin,
        end=part.end,
        inputs=part.inputs,
        outputs=part.outputs,
        shapes=tuple(tuple(to_json(axis) for axis in axes) for axes in part.output_shapes),
        dtypes=part.output_dtypes,
        dims=part.dims,
        when=part.when,
    )

"""Shapes, types and orders of what a launch reads and writes, as Ascend's profiler writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from whet.program.records import Buffer, BufferKind, Content, Launch, Program

TYPE_NAMES = MappingProxyType({"float32": "FLOAT", "float64": "DOUBLE", "bfloat16": "DT_BF16"})
"""Types that are not called as in NumPy, in capitals."""


def operand_columns(
    program: Program, launch: Launch, dims: Mapping[str, int]
) -> tuple[str, str, str, str, str, str]:
    """Return shapes, types and orders of the inputs of a launch, then those of its outputs.

    Values come before constants, of which the largest comes first: data, weights, bias. Work memory
    is left out. All is empty for files of a format before 2.1, which do not say.

    Args:
        program: has the launch.
        launch: one of its launches.
        dims: values of the run-time dimensions.
    """
    writes, skipped = set(launch.writes), {*launch.writes, *launch.fetched}
    buffers = [program.buffers[index] for index in launch.args]
    reads = [b for position, b in enumerate(buffers) if position not in skipped]
    reads.sort(key=lambda b: _rank(b, dims))
    written = [b for position, b in enumerate(buffers) if position in writes]
    return (*_columns(reads, dims), *_columns(written, dims))


def _rank(buffer: Buffer, dims: Mapping[str, int]) -> tuple[bool, int]:
    constant = buffer.kind is BufferKind.CONSTANT
    return constant, -buffer.size_bytes.evaluate(dims) if constant else 0


def _columns(buffers: Iterable[Buffer], dims: Mapping[str, int]) -> tuple[str, str, str]:
    contents = [b.content for b in buffers if b.content is not None]
    return (
        ";".join(_shape(content, dims) for content in contents),
        ";".join(TYPE_NAMES.get(content.dtype, content.dtype.upper()) for content in contents),
        ";".join(content.order for content in contents),
    )


def _shape(content: Content, dims: Mapping[str, int]) -> str:
    return ",".join(str(extent.evaluate(dims)) for extent in content.shape)

"""The compiled program as data: buffers, launches, their order, and what the caller sees.

These records are what code generation fills in, what a ``.whet`` file stores and all that the
runtime knows. They mention neither ONNX nor LLVM.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from whet.index import Poly

if TYPE_CHECKING:
    from whet.program.script import Script

PICTURE_BLOCKS = "aipp_blocks"
"""Under which the metadata of a program say which of its inputs are blocks of ``aipp_block.py``."""


NO_SCRATCH = -1
"""In the place of a buffer: a launch needs no scratch memory."""


class BufferKind(StrEnum):
    """Who owns the memory of a buffer."""

    INPUT = "input"
    OUTPUT = "output"
    CONSTANT = "constant"
    TEMP = "temp"
    SCRATCH = "scratch"


class TensorSpec(msgspec.Struct, frozen=True):
    """An input or output as the caller sees it.

    Attributes:
        name: the name in the model.
        dtype: NumPy or ml_dtypes name, such as ``"float32"``.
        shape: integers, or names of dimensions known at run time.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Content(msgspec.Struct, frozen=True):
    """What a buffer holds, for reports.

    Attributes:
        dtype: NumPy or ml_dtypes name.
        shape: extents in the order in which they are stored, outermost first; polynomials in the
            run-time dimensions. Of packed weights, the model's own shape.
        order: ``ND`` for plain order, ``NHWC`` and its like for channels last, ``PACKED`` for
            weights in the order of a kernel.
    """

    dtype: str
    shape: tuple[Poly, ...]
    order: str


class Buffer(msgspec.Struct, frozen=True):
    """One piece of memory, addressed by its position in ``Program.buffers``.

    Attributes:
        kind: who owns it.
        size_bytes: its size; a polynomial in the run-time dimensions. Of scratch memory, what each
            thread needs: the buffer has a piece for each of them.
        name: input or output name, or the value it mostly holds.
        offset: for constants, where it starts in the weights section; 64-byte aligned.
        content: what it mostly holds; none for work memory, and in files before format 2.1.
    """

    kind: BufferKind
    size_bytes: Poly
    name: str
    offset: int = 0
    content: Content | None = None


class Launch(msgspec.Struct, frozen=True):
    """One call of one kernel.

    A kernel has the signature
    ``void kernel(ptr arg0, ..., ptr argN, ptr dims, ptr scratch, i64 begin, i64 end)``
    and does the chunks ``begin <= c < end`` of its ``chunks``; any split of the range over
    threads gives the same bits.

    Attributes:
        kernel: symbol name in the image.
        args: indices into ``Program.buffers``, one per pointer parameter.
        writes: which of ``args`` (positions) the kernel writes; the others it only reads.
        chunks: how many chunks there are.
        waits: whether all threads must have finished everything before this launch starts.
        nodes: names of the model's nodes that it computes.
        ops: their operator types.
        flops: floating-point operations, for reports.
        bytes: bytes read and written, for reports.
        fetched: which of ``args`` (positions) it does not read, but brings into the cache.
        scratch: the buffer whose pieces are its scratch memory; ``NO_SCRATCH`` if it needs none.
    """

    kernel: str
    args: tuple[int, ...]
    writes: tuple[int, ...]
    chunks: Poly
    waits: bool
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    flops: Poly
    bytes: Poly
    fetched: tuple[int, ...] = ()
    scratch: int = NO_SCRATCH


class TargetInfo(msgspec.Struct, frozen=True):
    """What the generated code needs of a CPU.

    Attributes:
        triple: LLVM triple.
        cpu: LLVM CPU name.
        features: features that the code uses, such as ``avx512f``.
    """

    triple: str
    cpu: str
    features: tuple[str, ...]


class Part(msgspec.Struct, frozen=True):
    """A stretch of launches that a script runs on its own.

    Attributes:
        begin: its first launch.
        end: the launch after its last.
        inputs: buffers that get the addresses of what it reads; -1 where nothing is read.
        outputs: buffers that get the addresses of what it makes.
        output_shapes: shapes of what it makes.
        output_dtypes: element types of what it makes.
        dims: names of the run-time dimensions that its launches and sizes depend on.
        when: without a script, the shapes of the model's inputs that it is made for, -1 for any
            extent; none for any shapes.
    """

    begin: int
    end: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_shapes: tuple[tuple[Poly, ...], ...]
    output_dtypes: tuple[str, ...]
    dims: tuple[str, ...]
    when: tuple[tuple[int, ...], ...] = ()


class Program(msgspec.Struct, frozen=True):
    """Everything needed to run a compiled model, less its code and weights.

    Attributes:
        inputs: what the caller gives, in order.
        outputs: what the caller gets, in order.
        input_shapes: the same shapes as polynomials; each run-time dimension is bound by the
            first input axis that is exactly that dimension, or by the script.
        output_shapes: shapes of the outputs as polynomials in those dimensions.
        dims: names of run-time dimensions, in the order of the ``dims`` table.
        buffers: all buffers.
        launches: all launches, in order.
        threads: default number of threads.
        target: what the code runs on.
        reuse: whether temporaries may share memory.
        parts: stretches of launches that run on their own; none if all run in one go. Without a
            script each does all of the work: the first for any shapes, others for given ones.
        script: what runs the parts, if each does some of the work.
        scratch_bytes: scratch memory that each thread needs beside the buffers. Files of format 2.1
            and older have it, where scratch memory was no buffer.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_shapes: tuple[tuple[Poly, ...], ...]
    output_shapes: tuple[tuple[Poly, ...], ...]
    dims: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]
    threads: int
    target: TargetInfo
    reuse: bool = True
    parts: tuple[Part, ...] = ()
    script: Script | None = None
    scratch_bytes: int = 0


class FusedGroup(msgspec.Struct, frozen=True):
    """One launch as reported to people."""

    kernel: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]


class Stats(msgspec.Struct, frozen=True):
    """What a compiled model costs.

    Attributes:
        arena_bytes: memory for intermediate results and the threads' scratch (at dimension values
            of 1 if symbolic).
        weight_bytes: constant data.
        code_bytes: machine code.
        launches: kernel launches of one run.
        groups: what each launch computes.
        compile_s: seconds that compilation took; 0 for a loaded file.
        target: triple and CPU.
        threads: threads of one run.
        programs: what a run may take, by the shapes of inputs that it is made for.
    """

    arena_bytes: int
    weight_bytes: int
    code_bytes: int
    launches: int
    groups: tuple[FusedGroup, ...]
    compile_s: float
    target: str
    threads: int
    programs: tuple[str, ...] = ("any shape",)


def variant_name(program: Program, number: int) -> str:
    """Return what a part that does all of the work is called: the shapes that it is for."""
    return shapes_name(program, program.parts[number].when if program.parts else ())


def shapes_name(program: Program, when: tuple[tuple[int, ...], ...]) -> str:
    """Return what is made for some shapes of a program's inputs is called, -1 for any extent."""
    if not when:
        return "any shape"
    pairs = zip(program.inputs, when, strict=True)
    return ", ".join(f"{i.name}: {'x'.join(_extent(n) for n in shape)}" for i, shape in pairs)


def _extent(extent: int) -> str:
    return "?" if extent < 0 else str(extent)

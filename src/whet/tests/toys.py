"""Small programs with hand-written kernels, to try linker, driver and runtime."""

from __future__ import annotations

import functools
import platform

import llvmlite.binding as llvm
import numpy as np

from whet.codegen.objects.link import Image, link
from whet.codegen.threads.spmd import driver_text
from whet.codegen.writing.builder import I64, PTR, Builder, Module, i64
from whet.index import Poly, as_poly
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
from whet.runtime.load import from_memory
from whet.runtime.model import CompiledModel
from whet.runtime.parts import Parts

CHUNK = 8
HOST = f"{platform.machine()}-unknown-linux-gnu"


@functools.cache
def machine(triple: str) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(opt=2, reloc="pic", codemodel="small")


def assemble(text: str, triple: str = HOST) -> bytes:
    """Compile IR text into an object file."""
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    module.verify()
    return bytes(machine(triple).emit_object(module))


@functools.cache
def kernel_object(kind: str, chunks: int, triple: str = HOST) -> bytes:
    """Compile one kernel over int64: ``out[i] = f(a[mirror(i)], b[i])`` in chunks of 8.

    ``mirror`` reads from the far end, so that a missing barrier shows. ``chunks`` of 0 means
    that the count is the first run-time dimension.
    """
    module = Module()
    names = ["a", "b", "out", "dims", "scratch"]
    b = Builder(
        module,
        f"{kind}_{chunks}",
        [*((PTR, n) for n in names), (I64, "begin"), (I64, "end"), (I64, "again")],
    )
    a, other, out, dims, scratch, begin, end = (b.param(k) for k in range(7))
    count = i64(chunks) if chunks else b.load(I64, dims, 8)
    top = b.add(b.binary("mul", count, i64(CHUNK)), i64(-1))
    with b.loop(b.binary("mul", begin, i64(CHUNK)), b.binary("mul", end, i64(CHUNK))) as i:
        left = b.load(I64, b.gep(a, I64, b.binary("sub", top, i)), 8)
        right = b.load(I64, b.gep(other, I64, i), 8)
        value = b.binary("add", b.binary("mul", left, i64(3)), right)
        if kind == "sub":
            value = b.binary("sub", left, b.binary("mul", right, i64(5)))
        b.store(value, scratch, 8)
        b.store(b.load(I64, scratch, 8), b.gep(out, I64, i), 8)
    b.finish()
    return assemble(module.text(), triple)


def reference(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return what the kernel computes."""
    return np.asarray(a[::-1] * 3 + b if kind == "mix" else a[::-1] - b * 5)


def make_program(
    steps: list[tuple[str, int, int]],
    outputs: list[int],
    *,
    chunks: int | Poly = 4,
    threads: int = 1,
    constants: int = 0,
    reuse: bool = True,
    triple: str = HOST,
    scratch: int = 64,
) -> Program:
    """Return a program: value 0 is input ``x``, 1 is ``y``, then constants, then one per step.

    Without scratch memory it can be planned, and does not run.
    """
    count = as_poly(chunks)
    symbolic = count.constant is None
    elements = count * CHUNK
    size = elements * 8
    inputs = 2 + constants
    buffers = [Buffer(BufferKind.INPUT, size, "x"), Buffer(BufferKind.INPUT, size, "y")]
    for k in range(constants):
        buffers.append(Buffer(BufferKind.CONSTANT, size, f"c{k}", offset=k * (size.constant or 0)))
    for k in range(len(steps)):
        is_output = inputs + k in outputs
        kind = BufferKind.OUTPUT if is_output else BufferKind.TEMP
        buffers.append(Buffer(kind, size, f"o{inputs + k}" if is_output else f"t{inputs + k}"))
    launches = [
        Launch(
            kernel=f"{kind}_{0 if symbolic else chunks}",
            args=(a, b, inputs + k),
            writes=(2,),
            chunks=count,
            waits=False,
            nodes=(f"node{k}",),
            ops=(kind,),
            flops=elements,
            bytes=size * 3,
        )
        for k, (kind, a, b) in enumerate(steps)
    ]
    scheduled = assign_waits(launches, buffers)
    scheduled = assign_scratch(scheduled, buffers, {x.kernel: scratch for x in launches})
    shape = ("n", CHUNK) if symbolic else (count.constant or 0, CHUNK)
    axes = (count, as_poly(CHUNK))
    names = [f"o{k}" for k in outputs]
    return Program(
        inputs=tuple(TensorSpec(n, "int64", shape) for n in ("x", "y")),
        outputs=tuple(TensorSpec(n, "int64", shape) for n in names),
        input_shapes=(axes, axes),
        output_shapes=tuple(axes for _ in names),
        dims=("n",) if symbolic else (),
        buffers=tuple(buffers),
        launches=scheduled,
        threads=threads,
        target=TargetInfo(triple, "generic", ()),
        reuse=reuse,
    )


def build_image(program: Program) -> Image:
    """Compile and link a program made by ``make_program``."""
    triple = program.target.triple
    objects = {"driver": assemble(driver_text(program), triple)}
    for launch in program.launches:
        kind, chunks = launch.kernel.split("_")
        objects[launch.kernel] = kernel_object(kind, int(chunks), triple)
    return link(objects)


def make_parts(program: Program, weights: np.ndarray | None = None) -> Parts:
    image = build_image(program)
    data = np.zeros(64, np.uint8) if weights is None else weights.view(np.uint8).reshape(-1)
    return Parts(program, image.code, image.symbols, data, graph=b"graph", metadata={"k": "v"})


def make_model(
    program: Program, weights: np.ndarray | None = None, threads: int | None = None
) -> CompiledModel:
    return from_memory(make_parts(program, weights), threads)


def simulate(steps: list[tuple[str, int, int]], values: list[np.ndarray]) -> list[np.ndarray]:
    """Return all values: those given, then one per step, as flat arrays."""
    known = [np.asarray(v).reshape(-1) for v in values]
    for kind, a, b in steps:
        known.append(reference(kind, known[a], known[b]))
    return known


def random_steps(rng: np.random.Generator, count: int, inputs: int) -> list[tuple[str, int, int]]:
    steps = []
    for k in range(count):
        low = max(0, inputs + k - 6) if rng.random() < 0.7 else 0
        a, b = (int(v) for v in rng.integers(low, inputs + k, 2))
        steps.append((str(rng.choice(["mix", "sub"])), a, b))
    return steps

"""Runs a ``.whet`` file compiled for AArch64 under user-mode emulation, without Python in it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from whet.program import context
from whet.program.container import Container, map_section, open_container
from whet.program.context import layout_of
from whet.program.plan import find_liveness, plan_memory
from whet.program.records import Buffer, BufferKind
from whet.runtime.arrays import bind_dims, make_port

EMULATOR = "qemu-aarch64"
COMPILER = "aarch64-linux-gnu-gcc"
SOURCE = Path(__file__).with_name("emulated_main.c")
SPIN_NS = 2_000

Array = npt.NDArray[Any]

needs_emulator = pytest.mark.skipif(
    not (shutil.which(EMULATOR) and shutil.which(COMPILER)),
    reason=f"needs {EMULATOR} and {COMPILER}",
)


@dataclass(slots=True)
class _Memory:
    """Regions of the emulated process, words of the context, and pointers between them."""

    regions: list[tuple[int, bytes, bool]] = field(default_factory=list)
    words: list[tuple[int, int]] = field(default_factory=list)
    pointers: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, size: int, data: bytes = b"", *, written: bool = False) -> int:
        self.regions.append((size, data, written))
        return len(self.regions) - 1


def run_emulated(
    driver: Path, path: Path, inputs: Mapping[str, Array], *, threads: int = 1
) -> dict[str, Array]:
    """Run a compiled file with the program that ``build_driver`` made; return its outputs.

    Every region of memory ends before a page that faults, so that reads past the end show.
    """
    with open_container(path) as container:
        memory, shapes = _lay_out(container, inputs, threads)
        code = bytes(map_section(container, container.sections["code"])[1])
        symbols = container.manifest.symbols
        size = layout_of(container.program).size_bytes(threads)
        specs = container.program.outputs
    entry = [symbols[f"whet_{name}"] for name in ("start", "worker", "stop")]
    counts = [len(memory.regions), len(memory.words), len(memory.pointers)]
    numbers = [len(code), *entry, size, threads, *counts]
    numbers += [v for r in memory.regions for v in (r[0], len(r[1]), int(r[2]))]
    numbers += [v for pair in memory.words for v in pair]
    numbers += [v for place in memory.pointers for v in place]
    data = np.array(numbers, "<i8").tobytes() + code + b"".join(r[1] for r in memory.regions)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.write_bytes(data)
        command = [EMULATOR, str(driver), str(source), str(target)]
        subprocess.run(command, check=True, timeout=100)
        raw = target.read_bytes()
    results, at = {}, 0
    for spec, shape in zip(specs, shapes, strict=True):
        count = int(np.prod(shape))
        results[spec.name] = np.frombuffer(raw, spec.dtype, count, at).reshape(shape)
        at += results[spec.name].nbytes
    return results


def _lay_out(
    container: Container, inputs: Mapping[str, Array], threads: int
) -> tuple[_Memory, list[tuple[int, ...]]]:
    program = container.program
    layout = layout_of(program)
    ports = tuple(
        make_port(spec, axes)
        for spec, axes in zip(program.inputs, program.input_shapes, strict=True)
    )
    dims = bind_dims(ports, program.dims, tuple(inputs[s.name].shape for s in program.inputs))
    plan = plan_memory(program, dims, find_liveness(program), threads=threads)
    memory = _Memory()
    outputs = [
        next(k for k, b in enumerate(program.buffers) if _is_output(b, spec.name))
        for spec in program.outputs
    ]
    places = {
        number: (memory.add(program.buffers[number].size_bytes.evaluate(dims), written=True), 0)
        for number in outputs
    }
    weights = bytes(map_section(container, container.sections["weights"])[1])
    constants, arena = memory.add(len(weights), weights), memory.add(plan.arena_bytes)
    for number, buffer in enumerate(program.buffers):
        if buffer.kind is BufferKind.CONSTANT:
            places[number] = constants, buffer.offset
        elif buffer.kind is BufferKind.INPUT:
            data = np.ascontiguousarray(inputs[buffer.name]).tobytes()
            places[number] = memory.add(len(data), data), 0
        elif number in plan.offsets:
            places[number] = arena, plan.offsets[number]
    table = layout.buffer_table
    memory.pointers += [(table + 8 * n, *place) for n, place in places.items()]
    memory.words.append((context.THREADS, threads))
    memory.words.append((context.SPIN_NS, SPIN_NS))
    memory.words += [(context.DIMS + 8 * k, dims[name]) for k, name in enumerate(program.dims)]
    shapes = [tuple(a.evaluate(dims) for a in axes) for axes in program.output_shapes]
    return memory, shapes


def _is_output(buffer: Buffer, name: str) -> bool:
    return buffer.kind is BufferKind.OUTPUT and buffer.name == name


def build_driver(folder: Path) -> Path:
    """Build the program that runs compiled files."""
    command = [COMPILER, "-O1", "-static", "-pthread", "-o", str(folder / "run"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder / "run"

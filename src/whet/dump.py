"""``WHET_DUMP``: a folder for each compilation, with every stage as text, to read or repeat it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pprint import pformat
from typing import Any

import msgspec
import onnx
import onnx_ir as ir

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.threads.spmd import driver_text
from whet.errors import ResourceError
from whet.graph.text import graph_text
from whet.kernel.spec import Kernel
from whet.kernel.text import kernel_spec_text
from whet.options import Options
from whet.passes.pipeline import PassRecord
from whet.program.plan import find_liveness, plan_memory
from whet.program.records import Program
from whet.target import Target
from whet.words import counted

_SCRIPT = '''\
"""Repeats the compilation that this folder shows."""

from pathlib import Path

import whet

FOLDER = Path(__file__).resolve().parent
SOURCE = {source}
SHAPES = {shapes}
OPTIONS = whet.Options(**{options})

if __name__ == "__main__":
    model = whet.compile(SOURCE, shapes=SHAPES, options=OPTIONS)
    model.save(FOLDER / "repeated.whet")
'''


class Dump:
    """One compilation's folder: ``<model>.000``, the next free number.

    Args:
        parent: the folder that holds these folders.
        source: what is compiled; unless it is a path, a copy is kept for the script.
        shapes: as given to ``compile``.
        options: as given to ``compile``.

    Raises:
        ResourceError: the folder cannot be written.
    """

    def __init__(
        self,
        parent: Path,
        source: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
        shapes: Mapping[str, Any] | None,
        options: Options,
    ) -> None:
        with _writing(parent):
            if isinstance(source, str | os.PathLike):
                self.folder = _new_folder(parent, Path(source).stem)
                place = repr(str(Path(source).resolve()))
            else:
                self.folder = _new_folder(parent, "model")
                place = 'FOLDER / "source.onnx"'
                _keep(source, self.folder / "source.onnx")
        self._write("options.json", msgspec.json.format(msgspec.json.encode(options.as_dict())))
        given = None if shapes is None else dict(shapes)
        self._write(
            "repeat.py",
            _SCRIPT.format(source=place, shapes=pformat(given), options=pformat(options.as_dict())),
        )

    def graph(self, stage: str, model: ir.Model, number: int = 0) -> None:
        """Write the graph as it is after a stage."""
        self._write(f"graph/{number:03}_{stage}.txt", graph_text(model))

    def observer(self, model: ir.Model) -> Callable[[PassRecord], None]:
        """Return what the pipeline calls after a pass: graphs that changed are written."""

        def observe(record: PassRecord) -> None:
            if record.rewrites:
                self.graph(record.name, model, record.index + 1)

        return observe

    def program(
        self, program: Program, kernels: Mapping[str, Kernel], target: Target, graph: bytes
    ) -> None:
        """Write the optimised graph, launches, memory plan, and kernels in three languages."""
        self._write("optimised.onnx", graph)
        self._write("program.txt", "\n".join(_program_lines(program)) + "\n")
        self._write("memory.txt", "\n".join(_memory_lines(program)) + "\n")
        texts = {n: kernel_text(n, k, program.dims, target) for n, k in kernels.items()}
        for name, kernel in kernels.items():
            self._write(f"kernels/{name}.txt", kernel_spec_text(name, kernel))
        for name, text in {**texts, "driver": driver_text(program)}.items():
            self._write(f"kernels/{name}.ll", text)
            self._write(f"kernels/{name}.s", assembly_of(text, target))

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        with _writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"the dump cannot be written: {error.strerror or error}",
            where=str(path),
            hint="set WHET_DUMP to a folder that can be written, or unset it",
        ) from error


def _new_folder(parent: Path, stem: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = parent / f"{stem}.{number:03}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _keep(source: bytes | onnx.ModelProto | ir.Model, path: Path) -> None:
    if isinstance(source, bytes):
        path.write_bytes(source)
        return
    model = source if isinstance(source, ir.Model) else ir.from_proto(source)
    ir.save(model, path, external_data="source.data")


def _program_lines(program: Program) -> Iterator[str]:
    yield (
        f"target {program.target.triple} {program.target.cpu}, {counted(program.threads, 'thread')}"
    )
    yield f"dims ({', '.join(program.dims)})"
    for number, launch in enumerate(program.launches):
        args = ", ".join(
            f"{'out ' if position in launch.writes else ''}b{index}"
            for position, index in enumerate(launch.args)
        )
        wait = "wait; " if launch.waits else ""
        yield f"{number:4}: {wait}{launch.kernel}({args})"
        yield f"      chunks {launch.chunks}, flops {launch.flops}, bytes {launch.bytes}"
        yield f"      {', '.join(launch.ops)}: {', '.join(launch.nodes)}"


def _memory_lines(program: Program) -> Iterator[str]:
    ones, threads = dict.fromkeys(program.dims, 1), program.threads or 1
    plan = plan_memory(program, ones, find_liveness(program), threads=threads)
    sized = " where every open dimension is 1" if program.dims else ""
    yield f"arena: {plan.arena_bytes} bytes{sized}, for {counted(threads, 'thread')}"
    for index, buffer in enumerate(program.buffers):
        offset = plan.offsets.get(index, buffer.offset)
        yield f"b{index:<5} {buffer.kind:<9} @{offset:<12} {buffer.size_bytes} bytes  {buffer.name}"

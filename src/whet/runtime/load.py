"""The two ways to a ``CompiledModel``: from what the compiler made, and from a ``.whet`` file."""

from __future__ import annotations

import os

import msgspec
import numpy as np

from whet.options import check_threads
from whet.program.container import open_container, read_section
from whet.program.records import Program
from whet.runtime.arrays import address_of, empty_aligned
from whet.runtime.cpu import available_cpus, check_target, runs_here
from whet.runtime.image import map_code
from whet.runtime.model import CompiledModel
from whet.runtime.parts import Bytes, Parts
from whet.runtime.source import SourceFile, map_unread


def from_memory(parts: Parts, threads: int | None = None) -> CompiledModel:
    """Return a model from what the compiler made.

    It runs if this machine can run the code; else it can be inspected and saved.

    Args:
        parts: program, linked image, weights and the rest.
        threads: threads of one call; the program's own number if not given.
    """
    owned = msgspec.structs.replace(parts, weights=_aligned(parts.weights))
    code = map_code(parts.code, parts.symbols) if runs_here(parts.program.target) else None
    return CompiledModel(owned, code, thread_count(parts.program, threads))


def load(
    path: str | os.PathLike[str], threads: int | None = None, *, foreign: bool = False
) -> CompiledModel:
    """Load a ``.whet`` file. It holds machine code: load only what you trust.

    Weights are mapped from the file, not copied. A file that is cut or overwritten while the model
    is in use makes its next run an error.

    Args:
        path: the file.
        threads: threads of one call; the number given to the compiler if not given here.
        foreign: whether code for another machine is opened too, to be inspected.

    Raises:
        ArtifactError: the file is missing, damaged or of another format version.
        TargetError: this machine cannot run the code.
        OptionError: ``threads`` is no number of threads.
    """
    with open_container(path) as container:
        runs = runs_here(container.program.target)
        if not runs and not foreign:
            check_target(container.program.target)
        symbols = container.manifest.symbols
        mapped = {row.name: map_unread(container, row) for row in container.sections.values()
                  if row.name != "code"}  # fmt: skip
        image = read_section(container, container.sections["code"])
        code = map_code(image, symbols) if runs else None
    parts = Parts(
        program=container.program,
        code=code.view if code else image,
        symbols=symbols,
        weights=np.frombuffer(mapped["weights"].view, np.uint8),
        graph=mapped["graph"].view if "graph" in mapped else None,
        metadata=container.manifest.metadata,
    )
    source = SourceFile(os.fspath(path), tuple(mapped.values()), mapped["weights"].mapped)
    return CompiledModel(parts, code, thread_count(parts.program, threads), source)


def _aligned(weights: Bytes) -> Bytes:
    """Return the bytes at a multiple of 64, as kernels expect them; a copy only if needed."""
    if not weights.nbytes or address_of(weights) % 64 == 0:
        return weights
    copy = empty_aligned(weights.shape, weights.dtype)
    copy[...] = weights
    return copy


def thread_count(program: Program, threads: int | None) -> int:
    """Return how many threads a call uses; 0 stands for all CPUs.

    Raises:
        OptionError: ``threads`` is no number of threads.
    """
    if threads is None:
        return program.threads or available_cpus()
    check_threads(threads)
    return threads or available_cpus()

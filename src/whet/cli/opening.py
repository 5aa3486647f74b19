"""Opening what the user names: a compiled file is loaded, an ONNX file is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import whet
from whet.cli.parameters import Shapes
from whet.cli.progress import ProgressBar
from whet.options import Options
from whet.program.container import MAGIC
from whet.program.records import Program, Stats, TensorSpec

COMPILED_SUFFIX = ".whet"
Array = np.ndarray[Any, np.dtype[Any]]


class CompiledModel(Protocol):
    """The part of a compiled model that the command line uses."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""

    @property
    def stats(self) -> Stats:
        """What the model costs."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the compiler noted of the model's origin."""

    @property
    def program(self) -> Program:
        """What it runs."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""

    def save(self, path: str | Path) -> None:
        """Write the compiled file."""

    def release(self) -> None:
        """Free the memory and threads that no call uses."""


def is_compiled(path: Path) -> bool:
    """Tell whether a path names a compiled file: by its suffix, or by how the file begins."""
    if path.suffix == COMPILED_SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def compile_file(
    path: Path,
    shapes: Mapping[str, Any] | None,
    options: Options,
    preprocess: Path | None = None,
) -> CompiledModel:
    """Compile an ONNX file, with a progress bar."""
    with ProgressBar() as progress:
        compiled: CompiledModel = whet.compile(
            path,
            shapes=shapes,
            options=options,
            progress=progress,
            preprocess=() if preprocess is None else preprocess,
        )
    return compiled


def open_model(
    path: Path, shapes: Shapes | None, options: Options, *, foreign: bool = False
) -> CompiledModel:
    """Load a compiled file or compile an ONNX file.

    Args:
        path: the file.
        shapes: shapes by input name, for an ONNX file.
        options: how to compile.
        foreign: whether a file compiled for another machine is opened too, to be inspected.

    Raises:
        OptionError: shapes are given for a file that is compiled already.
    """
    if not is_compiled(path):
        return compile_file(path, shapes, options)
    if shapes:
        raise whet.OptionError(
            "the shapes of a compiled file are fixed",
            where=str(path),
            hint="give --shape when compiling, or --dim for a dimension left open",
        )
    loaded: CompiledModel = whet.load(path, options.threads or None, foreign=foreign)
    return loaded


@dataclass
class ReadyRunner:
    """A model that is open already, as the measuring engine takes it."""

    name: str
    call: Callable[[Mapping[str, Array]], dict[str, Array]]
    reopen: Callable[[], Callable[[Mapping[str, Array]], dict[str, Array]]] | None = None

    def prepare(self) -> None:
        """Do nothing: the model is open."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return self.call(inputs)

    def renew(self) -> None:
        """Go on in other memory, if it is known how."""
        if self.reopen is not None:
            self.call = self.reopen()


def renewable(name: str, model: CompiledModel, path: Path | None = None) -> ReadyRunner:
    """Return a runner of an open model that can go on in other memory.

    Args:
        name: what it is called.
        model: the model.
        path: its file: a compiled file is loaded again, code, weights and all.
    """

    def reopen() -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        if path is not None and is_compiled(path):
            return whet.load(path, model.stats.threads).run
        model.release()
        return model.run

    return ReadyRunner(name, model.run, reopen)

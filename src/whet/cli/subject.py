"""What a measurement was made of, so that it can be made again: file, content, how it was run.

A file of measurements names models and may come from a stranger. What this user has measured on
this machine is remembered in the cache folder: its code has run here before, just so, and may run
again without being asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from whet.cli import arrays
from whet.cli.opening import CompiledModel, is_compiled, open_model
from whet.cli.parameters import read_options
from whet.measure.runner import Inputs
from whet.options import options_from_dict
from whet.settings import read_settings


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it was measured.

    Attributes:
        file: absolute path.
        digest: BLAKE2b of the file's content.
        shapes: shapes by input name that were fixed, for an ONNX file.
        options: how it was compiled, as ``Options.as_dict`` has it.
        threads: threads of a run.
        dims: values of dimensions that were open.
        sources: where the inputs came from, as ``--input`` has it.
        feeds: different random inputs.
    """

    file: str
    digest: str
    shapes: dict[str, tuple[int | str, ...]]
    options: dict[str, Any]
    threads: int
    dims: dict[str, int]
    sources: tuple[str, ...]
    feeds: int

    def at_hand(self) -> bool:
        """Tell whether the file is still there with the same content."""
        path = Path(self.file)
        return path.is_file() and content_digest(path) == self.digest

    def remember(self) -> None:
        """Note that it was measured here; where that cannot be written, it has to be asked for."""
        with contextlib.suppress(OSError):
            self._note().parent.mkdir(parents=True, exist_ok=True)
            self._note().touch()

    def was_measured_here(self) -> bool:
        """Tell whether this user has measured it on this machine: file, content and options."""
        return self._note().is_file()

    def _note(self) -> Path:
        record = msgspec.json.encode(self, order="deterministic")
        name = hashlib.blake2b(record, digest_size=20).hexdigest()
        return read_settings().cache_dir / "measured" / name

    def open(self) -> CompiledModel:
        """Load or compile the model as it was when it was measured."""
        options = replace(options_from_dict(self.options), threads=self.threads)
        return open_model(Path(self.file), self.shapes or None, options)

    def inputs(self, compiled: CompiledModel) -> list[Inputs]:
        """Read or draw the inputs that it was measured with."""
        found: list[Inputs] = []
        found += arrays.read_feeds(self.sources, compiled.inputs, self.dims, self.feeds)
        return found


def content_digest(path: Path) -> str:
    """Return a digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def subject_of(
    path: Path, compiled: CompiledModel, values: Mapping[str, Any], dims: Mapping[str, int]
) -> Subject:
    """Describe a model that was just measured.

    Args:
        path: its file.
        compiled: the open model.
        values: the command's options, those of the compiler among them.
        dims: values of open dimensions.
    """
    shapes, options = read_options(values)
    return Subject(
        file=str(path.resolve()),
        digest=content_digest(path),
        shapes={} if is_compiled(path) else dict(shapes or {}),
        options=options.as_dict(),
        threads=compiled.stats.threads,
        dims=dict(dims),
        sources=tuple(values["sources"]),
        feeds=values["feeds"],
    )

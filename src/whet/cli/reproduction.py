"""A folder that shows a failure to somebody else: model, inputs, right outputs, and one line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from whet import whole_files
from whet.cli import arrays, output
from whet.cli.opening import Array
from whet.errors import ArtifactError
from whet.measure.machine import describe_machine

if TYPE_CHECKING:
    import onnx

    from whet.measure.accuracy.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Reproduction:
    """What the folder holds.

    Attributes:
        model: the failing model.
        feeds: its inputs.
        golden: its right outputs.
        recipe: how it is compiled.
        limits: limits by metric, if not the defaults.
        report: what was found out, as JSON.
        texts: further files by name.
    """

    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    golden: Mapping[str, Array]
    recipe: Recipe
    limits: Mapping[str, float] | None
    report: Mapping[str, Any]
    texts: Mapping[str, str]


def make_folder(path: Path) -> None:
    """Create the folder, before any work.

    Raises:
        ArtifactError: it exists and is not empty, or cannot be created.
    """
    whole_files.make_folder(path)
    if any(path.iterdir()):
        raise ArtifactError("the folder is not empty", where=str(path), hint="name another with -o")


def write_folder(path: Path, content: Reproduction, schema: str) -> str:
    """Write everything and return the line that repeats the failure inside the folder.

    Raises:
        ArtifactError: a file cannot be written.
    """
    line = _line(content)
    data = content.model.SerializeToString(deterministic=True)
    report = {
        **content.report,
        "reproduce": line,
        "machine": msgspec.to_builtins(describe_machine()),
    }
    texts = {
        "report.json": output.json_text(report, schema) + "\n",
        "reproduce.sh": f'#!/bin/sh\ncd "$(dirname "$0")" && {line}\n',
        **content.texts,
    }
    output.write_whole(path / "model.onnx", lambda file: file.write(data))
    arrays.write_arrays(path / "inputs.npz", content.feeds)
    arrays.write_arrays(path / "golden.npz", content.golden)
    for name, text in texts.items():
        output.write_text(path / name, text)
    return line


def _line(content: Reproduction) -> str:
    options = content.recipe.options
    words = ["whet", "verify", "model.onnx", "--input", "inputs.npz", "--golden", "golden.npz"]
    words += [f"-O{options.opt_level}", "--threads", str(options.threads)]
    present = {v.name for v in content.model.graph.input}
    for name, value in options.passes.items():
        word = value if not isinstance(value, bool) else "on" if value else "off"
        words += ["--pass", f"{name}={word}"]
    for name, dims in (content.recipe.shapes or {}).items():
        if name in present:
            words += ["--shape", f"{name}:{','.join(map(str, dims))}"]
    for name, limit in (content.limits or {}).items():
        words += ["--threshold", f"{name}={limit}"]
    if options.target != "host":
        words += ["--target", options.target]
    return shlex.join(words)

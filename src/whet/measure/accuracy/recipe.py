"""How the program under suspicion is made, so that it can be made again from changed models."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from whet.errors import ArtifactError
from whet.frontend.reading import read_file
from whet.measure.accuracy.graphs import input_names
from whet.options import Options, options_from_dict
from whet.program.container import digest

if TYPE_CHECKING:
    from whet.runtime.model import CompiledModel

Array = np.ndarray[Any, Any]
Source = str | os.PathLike[str] | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Recipe:
    """What ``whet.compile`` is given beside a model.

    Attributes:
        options: how to compile.
        shapes: shapes by input name; names that a model does not have are passed over.
    """

    options: Options = field(default_factory=Options)
    shapes: Mapping[str, tuple[int | str, ...]] | None = None

    def compile(self, source: Source, expose: Collection[str] = ()) -> CompiledModel:
        """Compile a model.

        Raises:
            WhetError: the model cannot be compiled.
        """
        import whet

        shapes = dict(self.shapes or {})
        if isinstance(source, onnx.ModelProto):
            present = set(input_names(source))
            shapes = {name: shape for name, shape in shapes.items() if name in present}
        return whet.compile(source, shapes=shapes or None, options=self.options, expose=expose)

    def run(self, source: Source, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compile a model and run it once; feeds that it does not take are passed over.

        Raises:
            WhetError: the model cannot be compiled or run.
        """
        program = self.compile(source)
        return program.run({spec.name: feeds[spec.name] for spec in program.inputs})

    def switched(self, passes: Mapping[str, bool | int], level: int | None = None) -> Recipe:
        """Return the recipe with other switches, and another level if given."""
        chosen = self.options.opt_level if level is None else level
        options = replace(self.options, passes=dict(passes), opt_level=chosen)
        return replace(self, options=options)


def recipe_of(metadata: Mapping[str, str], model: Path) -> Recipe:
    """Return how a compiled file was made, as the compiler noted it.

    Args:
        metadata: of the compiled file.
        model: the ONNX file that it should have been made from.

    Raises:
        ArtifactError: the file does not say, or was made from another model.
    """
    if "options" not in metadata or "shapes" not in metadata:
        raise ArtifactError("the compiled file does not say how it was made")
    wanted, file = metadata.get("source_digest"), read_file(model)
    if wanted is not None and (file is None or wanted != digest(file.view)):
        raise ArtifactError(
            "the compiled file was made from another model",
            where=str(model),
            hint="give the ONNX file that was compiled, or compile this one",
        )
    options = options_from_dict(msgspec.json.decode(metadata["options"]))
    shapes = {k: tuple(v) for k, v in msgspec.json.decode(metadata["shapes"]).items()}
    return Recipe(options, shapes or None)

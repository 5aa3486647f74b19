"""``--preprocess`` of commands that compare: all runtimes get the model that takes pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from whet.cli.opening import is_compiled
from whet.cli.parameters import parse_shapes
from whet.errors import OptionError

preprocess_option = click.option(
    "--preprocess",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="AIPP file: how inputs that are images become what the model takes.",
)


@contextmanager
def with_pictures(model: Path, values: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the model's file and the options, both as they are after ``--preprocess``.

    The steps become standard nodes in a file that is there meanwhile; ``--shape`` says what the
    model's own inputs are, and has done its work then.

    Args:
        model: the ONNX file.
        values: ``preprocess`` and the compiler's options.

    Raises:
        OptionError: the model is compiled already.
    """
    steps: Path | None = values["preprocess"]
    if steps is None:
        yield model, dict(values)
        return
    if is_compiled(model):
        raise OptionError(
            "a compiled file has its preprocessing inside",
            where=str(model),
            hint="name the ONNX file",
        )
    from whet.graph.save import save_graph
    from whet.optimize.pictures import with_preprocess

    made = with_preprocess(model, steps, parse_shapes(values["shapes"]))
    with tempfile.TemporaryDirectory(prefix="whet-pictures-") as folder:
        path = Path(folder) / model.name
        save_graph(made, path)
        yield path, {**values, "shapes": ()}

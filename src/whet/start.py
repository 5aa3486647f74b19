"""``compile``, as the package gives it: the model is read while the compiler is imported."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from whet.collector import collection_paused
from whet.frontend.reading import Reading, Source

if TYPE_CHECKING:
    from whet.driver import Preprocessing, Progress, Shapes
    from whet.options import Options
    from whet.runtime.model import CompiledModel


def compile(  # noqa: A001 - the public name
    source: Source,
    *,
    shapes: Shapes | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    expose: Collection[str] = (),
    preprocess: Preprocessing = (),
) -> CompiledModel:
    """Compile a model to native code.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto`` or an ``onnx_ir.Model``.
        shapes: shapes by input name; integers fix a dimension, names leave it to run time. A list
            of shapes gives each a program of its own, which runs inputs of just that shape;
            others take the program for any shape. All share one copy of equal weights.
        options: how to compile; see ``Options``.
        progress: called as ``progress(stage, done, total)``; the stages are load, optimise, lower,
            pack and compile.
        expose: names of intermediate values that the program gives too, as far as they exist in
            it: those that fusion or a rewrite removed, or that are inside a model which a script
            runs, are not among the outputs.
        preprocess: what happens to pictures before the model: an AIPP file, or ``Preprocess``
            and ``DynamicPreprocess`` records. Inputs take bytes then; ``shapes`` still are those
            of the model in the file.

    Returns:
        The compiled model, ready to run; made for another machine, to be saved and inspected.

    Raises:
        WhetError: the model is damaged or unsupported, shapes do not fit, options are invalid, or
            a limit is exceeded.
    """
    with collection_paused(), Reading(source) as given:
        from whet import driver

        return driver.compile(
            given,
            shapes=shapes,
            options=options,
            progress=progress,
            expose=expose,
            preprocess=preprocess,
        )

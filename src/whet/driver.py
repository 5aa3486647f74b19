"""``compile``: the one place where the stages meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from whet.codegen.cache import ObjectCache
from whet.codegen.compile import compile_program
from whet.codegen.targets import resolve_target
from whet.frontend.load import load_model
from whet.lower.assemble import assemble
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.options import Options
from whet.passes.pipeline import run_passes
from whet.runtime.model import CompiledModel, Parts, from_memory
from whet.settings import Settings, read_settings

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
Progress = Callable[[str, int, int], None]


def compile(  # noqa: A001 - the public name
    source: Source,
    *,
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile a model to native code.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto`` or an ``onnx_ir.Model``.
        shapes: shapes by input name; integers fix a dimension, names leave it to run time.
        options: how to compile; see ``Options``.
        progress: called as ``progress(stage, done, total)``.

    Returns:
        The compiled model, ready to run; for another machine's target, to be saved or inspected.

    Raises:
        WhetError: the model is damaged or unsupported, or shapes or options do not fit.
    """
    chosen = options or Options()
    settings = read_settings()
    start = time.perf_counter()
    tell = progress or _quiet
    tell("load", 0, 1)
    model = load_model(source, shapes=shapes)
    tell("optimise", 0, 1)
    run_passes(model, opt_level=chosen.opt_level, switches=chosen.passes)
    target = resolve_target(chosen.target)
    tell("lower", 0, 1)
    threads = chosen.thread_count
    lowered = lower(model, op_table(), target, level=chosen.opt_level, threads=threads)
    assembled = assemble(lowered, target, threads=threads, reuse=chosen.opt_level >= 1)
    image = compile_program(
        assembled.program,
        assembled.kernels,
        target,
        ObjectCache(_cache_folder(chosen, settings)),
        jobs=settings.jobs or len(os.sched_getaffinity(0)),
        report=lambda done, total: tell("compile", done, total),
    )
    parts = Parts(
        program=assembled.program,
        code=image.code,
        symbols=image.symbols,
        weights=assembled.weights,
        compile_s=time.perf_counter() - start,
    )
    return from_memory(parts)


def _quiet(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _cache_folder(options: Options, settings: Settings) -> Path | None:
    if options.cache_dir is None:
        return settings.cache_dir
    return Path(options.cache_dir) if str(options.cache_dir) else None

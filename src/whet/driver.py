"""``compile``: the one place where the stages meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnx
import onnx_ir as ir

from whet import __version__
from whet.codegen.cache import ObjectCache
from whet.codegen.compile import compile_program
from whet.codegen.link import Image
from whet.codegen.targets import resolve_target
from whet.dump import Dump
from whet.errors import OptionError
from whet.frontend.load import check_files, load_model
from whet.frontend.read import read_file
from whet.graph.infer import light_proto
from whet.limits import Budget
from whet.lower.assemble import Assembled, assemble
from whet.lower.assemble_script import assemble_script
from whet.lower.lower import LoweredScript, lower_model
from whet.ops.table import op_table
from whet.options import Options
from whet.passes.pipeline import run_passes
from whet.program.container import digest
from whet.runtime.model import CompiledModel, Parts, from_memory
from whet.settings import Settings, read_settings
from whet.target import Target

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
Shapes = Mapping[str, tuple[int | str, ...]]
Progress = Callable[[str, int, int], None]

GRAPH_WEIGHT_BYTES = 1024
"""Larger weights are left out of the graph that a compiled file keeps: it has them packed."""


def compile(  # noqa: A001 - the public name
    source: Source,
    *,
    shapes: Shapes | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    expose: Collection[str] = (),
) -> CompiledModel:
    """Compile a model to native code.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto`` or an ``onnx_ir.Model``.
        shapes: shapes by input name; integers fix a dimension, names leave it to run time.
        options: how to compile; see ``Options``.
        progress: called as ``progress(stage, done, total)``; the stages are load, optimise, lower,
            pack and compile.
        expose: names of intermediate values that the program gives too, as far as they exist in
            it: those that fusion or a rewrite removed, or that are inside a model which a script
            runs, are not among the outputs.

    Returns:
        The compiled model, ready to run; made for another machine, to be saved and inspected.

    Raises:
        WhetError: the model is damaged or unsupported, shapes do not fit, options are invalid, or
            a limit is exceeded.
    """
    chosen = _checked(options)
    settings = read_settings()
    start, budget = time.perf_counter(), Budget(chosen.limits)
    tell = progress or (lambda stage, done, total: None)
    dump = Dump(settings.dump_dir, source, shapes, chosen) if settings.dump_dir else None
    target = resolve_target(chosen.target)
    tell("load", 0, 1)
    facts = _facts(source, shapes, chosen)
    model = load_model(source, shapes=shapes, limits=chosen.limits)
    tell("load", 1, 1)
    tell = _checking(tell, budget)
    observers = _Observers(tell, dump, budget, expose)
    assembled, graph = _translate(model, chosen, target, observers)
    image = _generate(assembled, target, chosen, settings, tell)
    parts = Parts(
        program=assembled.program,
        code=image.code,
        symbols=image.symbols,
        weights=assembled.weights,
        graph=graph,
        metadata=facts,
        compile_s=time.perf_counter() - start,
    )
    return from_memory(parts)


@dataclass(frozen=True, slots=True)
class _Observers:
    """Who watches a compilation: progress, dump folder, budget, and values to be exposed."""

    tell: Progress
    dump: Dump | None
    budget: Budget
    expose: Collection[str]


def _checked(options: Options | None) -> Options:
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise OptionError(
            f"options is a {type(options).__name__}", hint="give whet.Options(threads=2, ...)"
        )
    return options


def _checking(tell: Progress, budget: Budget) -> Progress:
    """Return a progress function that also looks at the budget, after every kernel too."""

    def told(stage: str, done: int, total: int) -> None:
        budget.check(f"stage {stage}")
        tell(stage, done, total)

    return told


def _translate(
    model: ir.Model, options: Options, target: Target, observers: _Observers
) -> tuple[Assembled, bytes]:
    """Return the program of a model and its optimised graph; the model's weights are let go."""
    tell, dump = observers.tell, observers.dump
    tell("optimise", 0, 1)
    if dump:
        dump.graph("loaded", model)
    run_passes(
        model,
        opt_level=options.opt_level,
        switches=options.passes,
        observe=dump.observer(model) if dump else None,
        budget=observers.budget,
    )
    tell("optimise", 1, 1)
    level, threads = options.opt_level, options.thread_count
    tell("lower", 0, 1)
    expose = frozenset(observers.expose)
    lowered = lower_model(model, op_table(), target, level=level, threads=threads, expose=expose)
    tell("lower", 1, 1)
    graph = light_proto(model, GRAPH_WEIGHT_BYTES).SerializeToString(deterministic=True)
    tell("pack", 0, 1)
    if isinstance(lowered, LoweredScript):
        assembled = assemble_script(lowered, target, threads=threads, reuse=level >= 1)
    else:
        assembled = assemble(lowered, target, threads=threads, reuse=level >= 1)
    check_files(model)
    for value in model.graph.initializers.values():
        value.const_value = None  # nodes and values refer to each other: they are freed later
    tell("pack", 1, 1)
    if dump:
        dump.program(assembled.program, assembled.kernels, target, graph)
    return assembled, graph


def _generate(
    assembled: Assembled, target: Target, options: Options, settings: Settings, tell: Progress
) -> Image:
    return compile_program(
        assembled.program,
        assembled.kernels,
        target,
        ObjectCache(_cache_folder(options, settings)),
        jobs=settings.jobs or len(os.sched_getaffinity(0)),
        report=lambda done, total: tell("compile", done, total),
    )


def _cache_folder(options: Options, settings: Settings) -> Path | None:
    if options.cache_dir is None:
        return settings.cache_dir
    return Path(options.cache_dir) if str(options.cache_dir) else None


def _facts(source: Source, shapes: Shapes | None, options: Options) -> dict[str, str]:
    """Return what a compiled file says about its origin; equal for equal compilations."""
    facts = {
        "options": msgspec.json.encode(options.as_dict(), order="deterministic").decode(),
        "shapes": msgspec.json.encode(dict(shapes or {}), order="deterministic").decode(),
        "whet": __version__,
        **{package: version(package) for package in ("llvmlite", "onnx", "onnx-ir")},
    }
    if isinstance(source, bytes):
        facts |= {"source_digest": digest(memoryview(source))}
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        file = read_file(path)
        data = memoryview(b"") if file is None else file.view
        facts |= {"source": path.name, "source_digest": digest(data)}
    return facts

"""``compile``: the one place where the stages meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import llvmlite
import msgspec
import numpy as np
import onnx
import onnx_ir as ir

from whet import __version__
from whet.codegen.compile import compile_program
from whet.codegen.objects.cache import ObjectCache
from whet.codegen.objects.link import Image
from whet.codegen.objects.targets import resolve_target
from whet.collector import collection_paused
from whet.dump import Dump
from whet.errors import OptionError, UnsupportedError
from whet.frontend.buckets import split_buckets
from whet.frontend.load import check_files, load_model
from whet.frontend.preprocess.aipp import read_preprocess
from whet.frontend.preprocess.attach import attach_preprocess
from whet.frontend.preprocess.records import Step
from whet.frontend.reading import Reading, Source
from whet.graph.infer import light_proto
from whet.kernel.schedules import Schedules
from whet.kernel.tuning import read_tuning
from whet.limits import Budget
from whet.lower.assemble import Assembled, assemble
from whet.lower.assemble_script import assemble_script
from whet.lower.assemble_variants import Build, assemble_variants
from whet.lower.build import build_outline
from whet.lower.lower import Lowered, LoweredScript, lower_outlines
from whet.lower.outline import Outline
from whet.lower.room import Room
from whet.ops.table import op_table
from whet.options import Options
from whet.passes.pipeline import lowering_limits, run_passes
from whet.program.aipp_block import BlockUse
from whet.program.container import digest
from whet.program.placement import Place, script_placements
from whet.program.records import PICTURE_BLOCKS
from whet.runtime.load import from_memory
from whet.runtime.model import CompiledModel
from whet.runtime.parts import Parts
from whet.settings import Settings, read_settings
from whet.target import Target

Shape = Sequence[int | str]
Shapes = Mapping[str, Shape | Sequence[Shape]]
Progress = Callable[[str, int, int], None]
Preprocessing = str | os.PathLike[str] | Sequence[Step]

GRAPH_WEIGHT_BYTES = 1024
"""Larger weights are left out of the graph that a compiled file keeps: it has them packed."""


def compile(  # noqa: A001 - the public name
    source: Source | Reading,
    *,
    shapes: Shapes | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    expose: Collection[str] = (),
    preprocess: Preprocessing = (),
) -> CompiledModel:
    """Compile a model to native code.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto`` or an ``onnx_ir.Model``, or the
            ``Reading`` of one.
        shapes: as of ``whet.start.compile``, like what follows.
        options: how to compile.
        progress: told of every stage.
        expose: intermediate values that become outputs.
        preprocess: what happens to pictures before the model.

    Returns:
        The compiled model.

    Raises:
        WhetError: the model is damaged or unsupported, shapes do not fit, options are invalid, or
            a limit is exceeded.
    """
    chosen = _checked(options)
    settings = read_settings()
    start, budget = time.perf_counter(), Budget(chosen.limits)
    tell = progress or (lambda stage, done, total: None)
    target = resolve_target(chosen.target)
    tell("load", 0, 1)
    steps = read_preprocess(preprocess)
    with _reading(source) as given, collection_paused():
        dump = None
        if settings.dump_dir:
            dump = Dump(settings.dump_dir, given.source, shapes, chosen)
        models, uses = _load(given, shapes, chosen, steps)
        tell("load", 1, 1)
        tell = _checking(tell, budget)
        observers = _Observers(tell, dump, budget, expose, _schedules(chosen))
        assembled, graph = _translate(models, chosen, target, observers, given.room)
        image = _generate(assembled, target, chosen, settings, tell)
        weights = _packed(assembled, models, tell)
        facts = _facts(given, shapes, chosen, steps)
    parts = Parts(
        program=assembled.program,
        code=image.code,
        symbols=image.symbols,
        weights=weights,
        graph=graph,
        metadata=facts | _blocks(uses),
        compile_s=time.perf_counter() - start,
    )
    return from_memory(parts)


def _reading(source: Source | Reading) -> AbstractContextManager[Reading]:
    """Return the reading of a source; who began it earlier also ends it."""
    return nullcontext(source) if isinstance(source, Reading) else Reading(source)


class _Observers(msgspec.Struct, frozen=True):
    """What a compilation takes from outside: who watches it, values to be exposed, schedules."""

    tell: Progress
    dump: Dump | None
    budget: Budget
    expose: Collection[str]
    schedules: Schedules


def plan(
    source: Source, *, shapes: Shapes | None = None, options: Options | None = None
) -> Assembled:
    """Return the program that ``compile`` would generate code for: all but code generation.

    Raises:
        WhetError: as ``compile`` does.
    """
    chosen = _checked(options)
    budget = Budget(chosen.limits)
    models, _ = _load(source, shapes, chosen, ())
    tell = _checking(lambda stage, done, total: None, budget)
    target = resolve_target(chosen.target)
    schedules = _schedules(chosen)
    observers = _Observers(tell, None, budget, (), schedules)
    assembled, _ = _translate(models, chosen, target, observers)
    _packed(assembled, models, tell)
    return assembled


def ask_schedules(
    source: Source, *, shapes: Shapes | None = None, options: Options | None = None
) -> Schedules:
    """Return the schedules that ``compile`` would choose, by the nodes that they are for.

    Raises:
        WhetError: as ``compile`` does.
    """
    chosen = _checked(options)
    budget, schedules = Budget(chosen.limits), _schedules(chosen)
    tell = _checking(lambda stage, done, total: None, budget)
    observers = _Observers(tell, None, budget, (), schedules)
    target = resolve_target(chosen.target)
    models, _ = _load(source, shapes, chosen, ())
    _translate(models, chosen, target, observers)
    return schedules


def _schedules(options: Options) -> Schedules:
    known = read_tuning(Path(options.tuning)).answers() if options.tuning else {}
    rewrites = lowering_limits(options.opt_level, options.passes)
    return Schedules(options.thread_count, known, rewrites)


def _load(
    source: Source | Reading, shapes: Shapes | None, options: Options, steps: Sequence[Step]
) -> tuple[list[ir.Model], tuple[BlockUse, ...]]:
    """Return the model, and once more for each bucket of shapes; and the AIPP blocks it takes."""
    base, buckets = split_buckets(shapes)
    models = [load_model(source, shapes=s, limits=options.limits) for s in (base, *buckets)]
    uses = [attach_preprocess(model, steps) for model in models]
    return models, uses[0]


def _blocks(uses: Sequence[BlockUse]) -> dict[str, str]:
    return {PICTURE_BLOCKS: msgspec.json.encode(uses).decode()} if uses else {}


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
    models: list[ir.Model],
    options: Options,
    target: Target,
    observers: _Observers,
    room: Room | None = None,
) -> tuple[Assembled, bytes]:
    """Return the program of a model, whose weights may still be on their way, and its graph.

    All but the first of the models are the same one with other shapes.
    """
    tell, dump, count = observers.tell, observers.dump, len(models)
    outlines: list[Outline] = []
    for done, model in enumerate(models):
        tell("optimise", done, count)
        observed = dump if done == 0 else None
        if observed:
            observed.graph("loaded", model)
        run_passes(
            model,
            opt_level=options.opt_level,
            switches=options.passes,
            observe=observed.observer(model) if observed else None,
            budget=observers.budget,
        )
        tell("optimise", done + 1, count)
        tell("lower", done, count)
        outlines.append(build_outline(model, op_table()))
        tell("lower", done + 1, count)
    lowered = lower_outlines(
        outlines,
        target,
        level=options.opt_level,
        schedules=observers.schedules,
        expose=observers.expose,
        budget=observers.budget,
    )
    graph = light_proto(models[0], GRAPH_WEIGHT_BYTES).SerializeToString(deterministic=True)
    tell("pack", 0, 1)
    assembled = _assembled(lowered, options, target, room)
    if dump:
        dump.program(assembled.program, assembled.kernels, target, graph)
    return assembled, graph


def _packed(assembled: Assembled, models: list[ir.Model], tell: Progress) -> np.ndarray:
    """Return the program's weights when they are packed; those of the models are let go."""
    weights = assembled.weights
    for model in models:
        check_files(model)
    for value in (v for model in models for v in model.graph.initializers.values()):
        value.const_value = None  # nodes and values refer to each other: they are freed later
    tell("pack", 1, 1)
    return weights


def _assembled(
    lowered: list[Lowered] | LoweredScript, options: Options, target: Target, room: Room | None
) -> Assembled:
    threads, reuse = options.thread_count, options.opt_level >= 1
    if isinstance(lowered, LoweredScript):
        if not options.host_ops:
            _refuse_host(lowered)
        return assemble_script(lowered, target, threads=threads, reuse=reuse, room=room)
    if len(lowered) == 1:
        return assemble(lowered[0], target, threads=threads, reuse=reuse, room=room)
    return assemble_variants(lowered[0], lowered[1:], Build(target, threads, reuse, room))


def _refuse_host(lowered: LoweredScript) -> None:
    rows = [p for p in script_placements(lowered.cut.main) if p.place is Place.HOST]
    if rows:
        listed = ", ".join(f"{row.ops[0]} at {row.nodes[0]}" for row in rows)
        raise UnsupportedError(
            f"the model needs functions of the host: {listed}",
            where="host_ops",
            hint="allow them, or compute these parts before or after the model",
        )


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


def _facts(
    given: Reading, shapes: Shapes | None, options: Options, steps: Sequence[Step]
) -> dict[str, str]:
    """Return what a compiled file says about its origin; equal for equal compilations."""
    facts = {
        "options": msgspec.json.encode(options.as_dict(), order="deterministic").decode(),
        "shapes": msgspec.json.encode(dict(shapes or {}), order="deterministic").decode(),
        "whet": __version__,
        "llvmlite": llvmlite.__version__,
        "onnx": onnx.__version__,
        "onnx-ir": ir.__version__,
    }
    if steps:
        facts |= {"preprocess": msgspec.json.encode(steps, order="deterministic").decode()}
    if options.tuning:
        tuning = read_tuning(Path(options.tuning)).text().encode()
        facts |= {"tuning_digest": digest(memoryview(tuning))}
    if isinstance(given.source, str | os.PathLike):
        facts |= {"source": Path(given.source).name}
    source_digest = given.digest()
    if source_digest is not None:
        facts |= {"source_digest": source_digest}
    return facts

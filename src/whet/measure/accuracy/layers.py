"""Every value of a model against its golden one: where an error arises and how it travels.

Each value gets two errors. The *accumulated* error is what a run from the model's inputs shows. The
*own* error is what the value's stretch of the program adds when it is fed with golden values: all
values around it are cut, and each cut is fed with what the reference computed.

A value that fusion left in memory is read from the program as it is (``place`` is ``memory``). One
that it removed is looked at in a second compilation, in which every such value is an output
(``place`` is ``output``): the same operators, less fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import onnx

from whet.errors import WhetError
from whet.measure.accuracy.graphs import (
    cut_at,
    given_name,
    node_label,
    producers,
    value_names,
    with_outputs,
)
from whet.measure.accuracy.limits import Breach, Limits, find_breaches
from whet.measure.accuracy.metrics import Metrics, measure_error
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reference import AUTO, Golden, run_golden
from whet.program.records import Program

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Place = Literal["memory", "output", "nowhere"]
Progress = Callable[[str, int, int], None]


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the model.

    Attributes:
        value: its name.
        node: the node that produces it.
        op: that node's operator type.
        place: where it was read; ``nowhere`` where no program could give it.
        kernel: the kernel that wrote it, if it was read from memory.
        group: the nodes that this kernel computes.
        accumulated: its difference from the golden value after a run from the inputs.
        own: the difference that its own stretch of the program adds.
        breaches: limits that the accumulated error exceeds.
        own_breaches: limits that its own error exceeds.
    """

    value: str
    node: str
    op: str
    place: Place
    kernel: str = ""
    group: tuple[str, ...] = ()
    accumulated: Metrics | None = None
    own: Metrics | None = None
    breaches: tuple[Breach, ...] = ()
    own_breaches: tuple[Breach, ...] = ()


class LayersReport(msgspec.Struct, frozen=True, kw_only=True):
    """All values of a model, in the order of its nodes.

    Attributes:
        reference: who computed the golden values.
        layers: one record a value.
        first_own: the first value whose own error exceeds a limit: its node is to blame.
        first_accumulated: the first value whose accumulated error does.
        notes: what could not be looked at, and why.
    """

    reference: str
    layers: tuple[LayerReport, ...]
    first_own: str | None
    first_accumulated: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Errors:
    """Values that the four programs gave, by name."""

    memory: Mapping[str, Array]
    output: Mapping[str, Array]
    own_memory: Mapping[str, Array]
    own_output: Mapping[str, Array]
    kernels: Mapping[str, tuple[str, tuple[str, ...]]]
    notes: tuple[str, ...]


def verify_layers(
    model: onnx.ModelProto,
    feeds: Feeds,
    *,
    recipe: Recipe,
    limits: Limits | None = None,
    reference: str = AUTO,
    progress: Progress | None = None,
) -> LayersReport:
    """Compare every value of the main graph with its golden value.

    Args:
        model: the model as exported.
        feeds: an array for each input.
        recipe: how the program is compiled.
        limits: limits by metric; the defaults of each element type if not given.
        reference: who computes the golden values; see ``run_golden``.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        WhetError: the model cannot be compiled, or the reference cannot run it.
    """
    tell = progress or (lambda stage, done, total: None)
    names = value_names(model)
    tell("reference", 0, 1)
    golden = run_golden(with_outputs(model, names), feeds, reference)
    tell("reference", 1, 1)
    known = [name for name in names if name in golden.values]
    errors = _run_programs(model, {**feeds}, golden, known, (recipe, tell))
    made_by = producers(model)
    layers = tuple(_layer(made_by[name], name, golden, errors, limits) for name in known)
    return LayersReport(
        reference=golden.source,
        layers=layers,
        first_own=next((x.value for x in layers if x.own_breaches), None),
        first_accumulated=next((x.value for x in layers if x.breaches), None),
        notes=errors.notes,
    )


def _run_programs(
    model: onnx.ModelProto,
    feeds: dict[str, Array],
    golden: Golden,
    names: list[str],
    how: tuple[Recipe, Progress],
) -> _Errors:
    """Compile and run the model whole and in stretches, fused and not."""
    recipe, tell = how
    notes: list[str] = []
    tell("programs", 0, 4)
    program = recipe.compile(model, expose=names)
    memory = program.run(feeds)
    tell("programs", 1, 4)
    missing = [name for name in names if name not in memory]
    runs: list[dict[str, Array]] = []
    variants = (
        (
            "values that fusion removed",
            missing,
            lambda: with_outputs(model, missing, golden.values),
        ),
        ("own errors in memory", list(memory), lambda: _cut(model, list(memory), golden)),
        ("own errors of what fusion removed", missing, lambda: _cut(model, names, golden)),
    )
    for number, (what, wanted, build) in enumerate(variants):
        runs.append(
            _try(build, {**feeds, **_given(golden)}, recipe, (what, notes)) if wanted else {}
        )
        tell("programs", number + 2, 4)
    made_by = producers(model)
    kernels = {name: _writer(program.program, name, node_label(made_by[name])) for name in memory}
    return _Errors(memory, runs[0], runs[1], runs[2], kernels, tuple(notes))


def _writer(program: Program, name: str, node: str) -> tuple[str, tuple[str, ...]]:
    """Return the kernel that computed an output, not the one that copied it, and its nodes."""
    wanted = next(i for i, b in enumerate(program.buffers) if b.name == name and b.kind == "output")
    launch = _last_writer(program, wanted, node, len(program.launches))
    if launch is not None and program.launches[launch].ops == ("Copy",):
        reads = [
            b
            for k, b in enumerate(program.launches[launch].args)
            if k not in program.launches[launch].writes
        ]
        earlier = [_last_writer(program, b, node, launch) for b in reads]
        launch = next((found for found in earlier if found is not None), launch)
    if launch is None:
        return "", ()
    return program.launches[launch].kernel, program.launches[launch].nodes


def _last_writer(program: Program, buffer: int, node: str, before: int) -> int | None:
    """Return the launch that writes a buffer, one of this node if several do."""
    writers = [
        number
        for number, launch in enumerate(program.launches[:before])
        if buffer in [launch.args[w] for w in launch.writes]
    ]
    own = [number for number in writers if node in program.launches[number].nodes]
    return max(own or writers, default=None)


def _given(golden: Golden) -> dict[str, Array]:
    return {given_name(name): value for name, value in golden.values.items()}


def _cut(model: onnx.ModelProto, names: list[str], golden: Golden) -> onnx.ModelProto:
    """Cut a model at its floating-point values; others may decide shapes."""
    floats = [n for n in names if n in golden.values and golden.values[n].dtype.kind in "fcV"]
    made_here = set(value_names(model))
    return cut_at(model, [n for n in floats if n in made_here], golden.values)


def _try(
    build: Callable[[], onnx.ModelProto],
    feeds: dict[str, Array],
    recipe: Recipe,
    report: tuple[str, list[str]],
) -> dict[str, Array]:
    """Compile and run a variant; where that fails, a note says so and its values are missing."""
    what, notes = report
    try:
        return recipe.run(build(), feeds)
    except WhetError as error:
        notes.append(f"{what}: {' '.join(str(error).split())}")
        return {}


def _layer(
    node: onnx.NodeProto, name: str, golden: Golden, errors: _Errors, limits: Limits | None
) -> LayerReport:
    place: Place = "memory" if name in errors.memory else "output"
    found = errors.memory.get(name, errors.output.get(name))
    own = (errors.own_memory if place == "memory" else errors.own_output).get(name)
    accumulated = None if found is None else measure_error(found, golden.values[name])
    added = None if own is None else measure_error(own, golden.values[name])
    kernel, group = errors.kernels.get(name, ("", ()))
    return LayerReport(
        value=name,
        node=node_label(node),
        op=node.op_type,
        place="nowhere" if found is None else place,
        kernel=kernel if place == "memory" else "",
        group=group if place == "memory" else (),
        accumulated=accumulated,
        own=added,
        breaches=find_breaches(accumulated, limits) if accumulated else (),
        own_breaches=find_breaches(added, limits) if added else (),
    )

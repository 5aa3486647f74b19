"""Every value of a model against its golden one: where an error arises and how it travels.

Each value gets two errors. The *accumulated* error is what a run from the model's inputs shows. The
*own* error is what the value's stretch of the program adds to golden values.

A value that fusion left in memory is read from the program as it is (``place`` is ``memory``). One
that it removed is computed from those by the model's own operators, one by one (``place`` is
``output``). They compute from golden values too: what they miss is the own error of the values
between them, and what a kernel gives beside its operators is added to that of its result.
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
    node_label,
    producers,
    value_names,
    with_outputs,
)
from whet.measure.accuracy.limits import Breach, Limits, find_breaches
from whet.measure.accuracy.metrics import Metrics, measure_error
from whet.measure.accuracy.recipe import Recipe
from whet.measure.accuracy.reference import AUTO, Golden, run_golden
from whet.measure.accuracy.stretches import Stretches, with_fusion
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
    """Values by name: of a run from the inputs, and of golden values; and which were in memory."""

    found: Mapping[str, Array]
    own: Mapping[str, Array]
    memory: frozenset[str]
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
    """Compile and run the model whole, and cut into its operators."""
    recipe, tell = how
    notes: list[str] = []
    tell("programs", 0, 2)
    program = recipe.compile(model, expose=names)
    memory = program.run(feeds)
    tell("programs", 1, 2)
    missing = [name for name in names if name not in memory]
    found = _alone(model, (feeds, memory), golden, names, (recipe, notes))
    if found is None:
        output, own = _plain(model, missing, golden, (feeds, recipe, notes)), dict[str, Array]()
    else:
        output, own = found
    tell("programs", 2, 2)
    made_by = producers(model)
    kernels = {name: _writer(program.program, name, node_label(made_by[name])) for name in memory}
    return _Errors({**output, **memory}, own, frozenset(memory), kernels, tuple(notes))


def _alone(
    model: onnx.ModelProto,
    given: tuple[dict[str, Array], dict[str, Array]],
    golden: Golden,
    names: list[str],
    how: tuple[Recipe, list[str]],
) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Return values on their way through the program, and as it makes them of golden ones.

    Args:
        model: the model.
        given: its inputs, and what the program left in memory.
        golden: golden values.
        names: the values to look at.
        how: how to compile, and where notes go: where it fails, one says so.
    """
    (feeds, memory), (recipe, notes) = given, how
    try:
        stretches = Stretches(model, names, golden, feeds, recipe)
        own = stretches.run(golden.values)
    except WhetError as error:
        notes.append(f"own errors: {' '.join(str(error).split())}")
        return None
    own = {name: own[name] for name in stretches.cut}
    held = {name: memory[name] for name in stretches.cut if name in memory}
    passed = stretches.settle(held)
    if passed is None:
        missing = [name for name in names if name not in memory]
        return _plain(model, missing, golden, (feeds, recipe, notes)), own
    return passed, {
        name: with_fusion(value, held[name], passed[name]) if name in held else value
        for name, value in own.items()
    }


def _plain(
    model: onnx.ModelProto,
    missing: list[str],
    golden: Golden,
    how: tuple[dict[str, Array], Recipe, list[str]],
) -> dict[str, Array]:
    """Return values that fusion removed from a program of their own; a note if that fails."""
    feeds, recipe, notes = how
    try:
        return recipe.run(with_outputs(model, missing, golden.values), feeds) if missing else {}
    except WhetError as error:
        notes.append(f"values that fusion removed: {' '.join(str(error).split())}")
        return {}


def _writer(program: Program, name: str, node: str) -> tuple[str, tuple[str, ...]]:
    """Return the kernel that computed an output, not the one that copied it, and its nodes."""
    outputs = (i for i, b in enumerate(program.buffers) if b.name == name and b.kind == "output")
    wanted = next(outputs, None)
    if wanted is None:  # a step of the script made it, such as a sequence
        return "", ()
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


def _layer(
    node: onnx.NodeProto, name: str, golden: Golden, errors: _Errors, limits: Limits | None
) -> LayerReport:
    place: Place = "memory" if name in errors.memory else "output"
    found, own = errors.found.get(name), errors.own.get(name)
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

"""The graph passes alone: from an ONNX model to an ONNX model of standard operators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import onnx
import onnx_ir as ir

from whet.frontend.load import load_model
from whet.graph.edit import SOURCES_KEY
from whet.optimize.cost import GraphCost, graph_cost
from whet.optimize.opset import lower_opset
from whet.passes.pipeline import PassRecord, infer_entry, run_passes

Source = str | os.PathLike[str] | bytes | onnx.ModelProto


class PassReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass did in all its runs.

    Attributes:
        name: the pass.
        runs: how often it ran.
        rewrites: matches that it rewrote.
        nodes_before: nodes in front of its first run that changed something.
        nodes_after: nodes after its last one.
        nodes_saved: nodes that it removed, in all its runs.
        bytes_saved: operands and results that need not be moved any more, by the yardstick of
            ``graph_cost``; negative where a pass adds some.
        flops_saved: operations that need not be done.
        seconds: time spent in it.
    """

    name: str
    runs: int
    rewrites: int
    nodes_before: int
    nodes_after: int
    nodes_saved: int
    bytes_saved: int
    flops_saved: int
    seconds: float


class OptimizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a graph.

    Attributes:
        passes: one record a pass that ran, in the order of their first runs.
        before: cost of the loaded graph: the nodes that it has, and what the optimised graph costs
            with all savings put back, as some shapes are known at the end only.
        after: cost of the optimised graph.
        opset: of the optimised model.
    """

    passes: tuple[PassReport, ...]
    before: GraphCost
    after: GraphCost
    opset: int


@dataclass(frozen=True, slots=True, eq=False)
class Optimized:
    """An optimised model and how it came about."""

    model: ir.Model
    report: OptimizeReport


@dataclass(frozen=True, slots=True)
class _Step:
    """One run of a pass with the cost of the graph around it."""

    record: PassRecord
    before: GraphCost
    after: GraphCost


def optimize_graph(
    source: Source,
    *,
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    opt_level: int = 3,
    passes: Mapping[str, bool | int] | None = None,
    opset: int | None = None,
) -> Optimized:
    """Run the graph passes on a model.

    Args:
        source: path of an ONNX file, its bytes or a ``ModelProto``.
        shapes: shapes by input name; integers fix a dimension, names leave it open.
        opt_level: as of ``whet.Options``.
        passes: switches by pass name, as of ``whet.Options``.
        opset: opset of the result; by default the lowest, from 21 on, that has all it uses.

    Raises:
        WhetError: the model is damaged or unsupported, or a switch is not valid.
    """
    model = load_model(source, shapes=shapes)
    cost = graph_cost(model)
    nodes = cost.nodes
    steps: list[_Step] = []

    def observe(record: PassRecord) -> None:
        nonlocal cost
        after = graph_cost(model) if record.rewrites else cost
        learned = record.name == infer_entry().name  # more is known, nothing has changed
        steps.append(_Step(record, after if learned else cost, after))
        cost = after

    run_passes(model, opt_level=opt_level, switches=passes, observe=observe)
    for node in model.graph:
        node.metadata_props.pop(SOURCES_KEY, None)
    version = lower_opset(model, opset)
    made = _summarise(steps)
    before = GraphCost(
        nodes=nodes,
        bytes=cost.bytes + sum(p.bytes_saved for p in made),
        flops=cost.flops + sum(p.flops_saved for p in made),
    )
    report = OptimizeReport(passes=made, before=before, after=cost, opset=version)
    return Optimized(model=model, report=report)


def _summarise(steps: list[_Step]) -> tuple[PassReport, ...]:
    names = dict.fromkeys(step.record.name for step in steps)
    return tuple(_pass(name, [s for s in steps if s.record.name == name]) for name in names)


def _pass(name: str, steps: list[_Step]) -> PassReport:
    changed = [s for s in steps if s.record.rewrites] or steps[:1]
    return PassReport(
        name=name,
        runs=len(steps),
        rewrites=sum(s.record.rewrites for s in steps),
        nodes_before=changed[0].before.nodes,
        nodes_after=changed[-1].after.nodes,
        nodes_saved=sum(s.before.nodes - s.after.nodes for s in steps),
        bytes_saved=sum(s.before.bytes - s.after.bytes for s in steps),
        flops_saved=sum(s.before.flops - s.after.flops for s in steps),
        seconds=sum(s.record.seconds for s in steps),
    )

"""Conversions that need no calibration of grids: weights alone, and the 16-bit floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import onnx
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.graph.save import save_proto, weight_bytes
from whet.optimize.optimize import optimize_graph
from whet.quantize.api import Goal
from whet.quantize.floats import convertible, in_bodies, largest_values, unfit, write_floats
from whet.quantize.judge import Baseline, Evaluation, Judge
from whet.quantize.observe import Progress
from whet.quantize.scores import find_metric
from whet.quantize.static import Request, calibration_data, input_specs
from whet.quantize.target import Search, TargetReport, parse_drop
from whet.quantize.weights import WeightConfig, quantize_weights

FloatKind = Literal["float16", "bfloat16"]


class ConvertReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a model.

    Attributes:
        mode: ``weights``, ``float16`` or ``bfloat16``.
        converted: nodes that run in the small type, or read small weights; 0 where unknown.
        floats: nodes that were left in float32, and why.
        ranges_checked: whether ranges of activations were seen on data; else a value may become
            infinite in float16.
        bytes_before: size of the weights.
        bytes_after: the same of the result.
        target: how the accuracy target was reached, if there was one.
    """

    mode: str
    converted: int
    floats: dict[str, str]
    bytes_before: int
    bytes_after: int
    target: TargetReport | None = None
    ranges_checked: bool | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """A converted model.

    Attributes:
        model: ONNX.
        report: how it came about.
    """

    model: onnx.ModelProto
    report: ConvertReport

    def save(self, path: str | Path) -> None:
        """Write the ONNX file, whole or not at all; weights beyond 1 GiB go to a file beside it.

        Raises:
            ArtifactError: it cannot be written.
        """
        save_proto(self.model, Path(path))


def convert_weights(request: Request, config: WeightConfig) -> Converted:
    """Quantise the matrices of a model alone; see ``WeightConfig``.

    Raises:
        WhetError: as ``quantize_weights`` does.
    """
    made = quantize_weights(request, config)
    count = sum(_reads_blocks(node) for node in made.model.graph.all_nodes())
    report = ConvertReport(
        mode="weights", converted=count, floats=dict(made.left),
        bytes_before=weight_bytes(made.base), bytes_after=weight_bytes(made.model),
    )  # fmt: skip
    return Converted(ir.to_proto(made.model), report)


def _reads_blocks(node: ir.Node) -> bool:
    return node.op_type == "MatMulNBits" or "block_size" in node.attributes


def convert_floats(request: Request, kind: FloatKind, goal: Goal) -> Converted:
    """Convert a model to float16 or bfloat16; nodes whose values do not fit stay in float32.

    Without data only constants are known to fit. With a target, further nodes stay until it holds.

    Raises:
        UnsupportedError: nothing can be converted.
        InputError: there is a target, and no data.
        WhetError: the model or the data is not valid, or the target cannot be reached.
    """
    base = optimize_graph(request.source, shapes=request.shapes).model
    if request.calibration is None:
        request = replace(request, calibration=goal.evaluation)
    begun = None if goal.max_drop is None else _begin(request, goal, base)
    largest = {}
    if request.calibration is not None or begun is not None:
        data = calibration_data(request, input_specs(base))
        largest = largest_values(base, data, request.options)
    stay = unfit(base, kind, largest)
    nodes = [name for name in convertible(base, kind) if name not in stay]
    if not nodes:
        raise UnsupportedError(
            f"nothing in the model fits in {kind}" if stay else f"nothing to convert to {kind}",
            hint="bfloat16 has the range of float32"
            if stay
            else "nodes that read float32 can be, outside of bodies",
        )
    target = None
    if begun is not None:
        target = _search(begun, kind, nodes, request.progress)
        stay |= {n: "the target" for n, c in target.choices.items() if c == "float"}
    chosen = [name for name in nodes if name not in stay]
    made = write_floats(base, kind, chosen)
    stay |= in_bodies(base, kind)
    report = ConvertReport(
        mode=kind, converted=len(chosen), floats=stay, bytes_before=weight_bytes(base),
        bytes_after=weight_bytes(made), target=target,
        ranges_checked=request.calibration is not None,
    )  # fmt: skip
    return Converted(ir.to_proto(made), report)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A float model that was judged, and what others may lose against it."""

    base: ir.Model
    evaluation: Evaluation
    baseline: Baseline
    limit: float


def _begin(request: Request, goal: Goal, base: ir.Model) -> _Begun:
    """Judge the float model before its values are seen, so that useless data is found first."""
    limit, metric = parse_drop(str(goal.max_drop)), find_metric(goal.metric)
    given = request.calibration if goal.evaluation is None else goal.evaluation
    config = msgspec.structs.replace(request.config, samples=goal.samples)
    evaluated = Request(request.source, given, config, images=request.images)
    name = "calibration" if goal.evaluation is None else "evaluation"
    data = calibration_data(evaluated, input_specs(base), name)
    evaluation = Evaluation(data, metric, request.options)
    return _Begun(base, evaluation, evaluation.baseline(base), limit)


def _search(
    begun: _Begun, kind: FloatKind, nodes: Sequence[str], progress: Progress
) -> TargetReport:
    ops = {node.name: node.op_type for node in begun.base.graph}

    def write(choices: Mapping[str, str]) -> ir.Model:
        return write_floats(begun.base, kind, [n for n in nodes if choices.get(n) != "float"])

    judge = Judge(begun.evaluation, begun.baseline, write)
    layers = [(name, ops[name]) for name in nodes]
    search = Search(judge, layers, begun.baseline.score, begun.limit, low=kind, progress=progress)
    return search.run()

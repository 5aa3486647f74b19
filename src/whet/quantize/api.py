"""``whet.quantize``: a quantised ONNX model from a float one and calibration data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import msgspec
import onnx
import onnx_ir as ir

from whet.errors import OptionError, nearest
from whet.graph.save import save_proto, weight_bytes
from whet.options import Options
from whet.quantize.config import Choice, QuantizeConfig, config_from_dict
from whet.quantize.data import Source
from whet.quantize.images import ImageOptions
from whet.quantize.judge import Choices, Evaluation, Judge, read_scores
from whet.quantize.layers import Skipped
from whet.quantize.measured import (
    GOALS,
    GoalName,
    MeasuredReport,
    Measurement,
    Timer,
    chosen_point,
)
from whet.quantize.observe import Progress
from whet.quantize.scores import Metric, find_metric, metric_source
from whet.quantize.static import (
    Model,
    Prepared,
    Request,
    Shapes,
    calibration_data,
    draft,
    input_specs,
    prepare,
)
from whet.quantize.target import Search, TargetReport, parse_drop
from whet.whole_files import make_folder


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a model.

    Attributes:
        config: how it was quantised, with the final choice of every layer.
        samples: calibration samples.
        quantized: layers that are quantised, and their operators.
        floats: layers that could be and are not.
        skipped: products that cannot be, and why.
        bytes_before: size of the float model's weights.
        bytes_after: of the quantised model's.
        target: how the accuracy target was reached, if there was one.
        measured: what layers gain in time, if that was measured.
    """

    config: QuantizeConfig
    samples: int
    quantized: dict[str, str]
    floats: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    bytes_before: int
    bytes_after: int
    target: TargetReport | None = None
    measured: MeasuredReport | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantised model.

    Attributes:
        model: ONNX with QuantizeLinear and DequantizeLinear.
        report: how it came about.
    """

    model: onnx.ModelProto
    report: QuantizeReport

    def save(self, path: str | Path) -> None:
        """Write the ONNX file, whole or not at all; weights beyond 1 GiB go to a file beside it.

        Raises:
            ArtifactError: it cannot be written.
        """
        save_proto(self.model, Path(path))


@dataclass(frozen=True, slots=True)
class Goal:
    """What a quantised model is held to.

    Attributes:
        max_drop: largest drop of the metric: ``0.005`` or ``"0.5%"``; ``None`` for no target.
        metric: ``top1``, ``cosine``, ``file.py:function`` or a function.
        evaluation: what it is measured on; the calibration data if not given.
        samples: most samples of it; 0 for all.
        timer: times two graphs; layers that are not faster in 8 bits stay in float.
        pick: which mixture of precisions is wanted, with a timer.
    """

    max_drop: float | str | None = None
    metric: str | Metric = "top1"
    evaluation: Source | None = None
    samples: int = 0
    timer: Timer | None = None
    pick: GoalName = "speed"


def quantize(
    model: Model,
    calibration: Source,
    *,
    config: QuantizeConfig | Mapping[str, Any] | None = None,
    max_drop: float | str | None = None,
    metric: str | Metric = "top1",
    evaluation: Source | None = None,
    **more: Any,
) -> Quantized:
    """Quantise a model after training.

    Args:
        model: path of an ONNX file, its bytes or a ``ModelProto``.
        calibration: a ``.npy``, ``.npz`` or image file, a folder of them, an array, a mapping of
            arrays, an iterable of either, or a function that returns one.
        config: how; a ``QuantizeConfig`` or its fields.
        max_drop: the largest drop of the metric, such as ``"0.5%"``: layers are rolled back until
            it holds.
        metric: ``top1``, ``cosine``, ``file.py:function`` or a function.
        evaluation: what the metric is measured on; the calibration data if not given.
        more: ``shapes``, ``options``, ``images``, ``state`` (a folder from which interrupted work
            goes on) and ``progress``, as of ``Request``; ``timer`` and ``pick``, as of ``Goal``.

    Raises:
        WhetError: the model, the data or a setting is not valid, or the target cannot be reached.
    """
    request = _request(model, calibration, config, more)
    pick, timer = more.get("pick") or "speed", more.get("timer")
    if pick not in GOALS:
        raise OptionError(f"there is no goal {pick!r}", hint=nearest(pick, GOALS))
    if timer is None and more.get("pick") is not None:
        raise OptionError("pick changes nothing alone", where="pick", hint="give a timer")
    if timer is None and max_drop is None:
        for name, idle in {"evaluation": evaluation is None, "metric": metric == "top1"}.items():
            if not idle:
                raise OptionError(f"{name} changes nothing alone", where=name, hint="give max_drop")
    goal = Goal(max_drop, metric, evaluation, timer=timer, pick=pick)
    return run(request, goal, _folder(more.get("state")))


def _request(
    model: Model,
    calibration: Source,
    config: QuantizeConfig | Mapping[str, Any] | None,
    more: Mapping[str, Any],
) -> Request:
    _check(more)
    chosen = config if isinstance(config, QuantizeConfig) else config_from_dict(config or {})
    folder = _folder(more.get("state"))
    silent: Progress = lambda stage, done, total: None  # noqa: E731 - the type is the point
    return Request(
        source=model,
        calibration=calibration,
        config=chosen,
        shapes=cast(Shapes | None, more.get("shapes")),
        options=more.get("options") or Options(),
        images=more.get("images") or ImageOptions(),
        state=None if folder is None else folder / "calibration.npz",
        progress=more.get("progress") or silent,
    )


_KINDS: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "images": ((ImageOptions,), "give ImageOptions"),
        "options": ((Options,), "give whet.Options(threads=2, ...)"),
        "progress": ((Callable,), "give a function of a stage and two numbers"),
        "shapes": ((Mapping,), 'give a shape for each name: {"input": (1, 3, 224, 224)}'),
        "state": ((str, os.PathLike), "name a folder, or a place for one"),
        "timer": ((Callable,), "give a function of two graphs"),
    }
)
"""What the arguments beside data and configuration are, and what to say if they are not."""


def _check(more: Mapping[str, Any]) -> None:
    known = {*_KINDS, "pick"}
    for name, given in more.items():
        if name not in known:
            raise OptionError(f"unknown option {name!r}", hint=f"valid: {', '.join(sorted(known))}")
        kinds, hint = _KINDS.get(name, ((object,), ""))
        if given is not None and not isinstance(given, kinds):
            raise OptionError(f"{name} is a {type(given).__name__}", where=name, hint=hint)
        if given == "":
            raise OptionError(f"{name} is empty", where=name, hint=hint)


def _folder(state: str | Path | None) -> Path | None:
    if state is None:
        return None
    folder = Path(state)
    make_folder(folder, "the folder of the state", hint="name a folder, or a place for one")
    return folder


def run(request: Request, goal: Goal, state: Path | None = None) -> Quantized:
    """Quantise as a request says and hold it to a goal.

    Raises:
        WhetError: as ``quantize`` does.
    """
    limit = _limit(goal)
    if limit is None and goal.timer is None:
        ready = prepare(request, draft(request))
        return finish(ready, dict(request.config.layers))
    ready, judge = _judged(request, goal, state)
    base = judge.baseline.score
    fixed = request.config.layers
    layers = [(x.name, x.op) for x in ready.plan.layers if x.name not in fixed]
    choices: dict[str, str] = {name: "int8" for name, _ in layers}
    target = measured = None
    if limit is not None:
        finer = frozenset(
            x.name
            for x in ready.plan.layers
            if x.axis is not None and not request.config.per_channel
        )
        target = Search(judge, layers, base, limit, finer, progress=request.progress).run()
        choices = target.choices
    if goal.timer is not None:
        search = Measurement(
            judge, ready.base, base, goal.timer, limit, goal.pick, request.progress
        )
        measured = search.run(choices, dict(layers))
        choices = chosen_point(measured)
    return finish(ready, {**fixed, **choices}, target, measured)


def _limit(goal: Goal) -> float | None:
    return None if goal.max_drop is None else parse_drop(str(goal.max_drop))


def _judged(request: Request, goal: Goal, state: Path | None) -> tuple[Prepared, Judge]:
    """Calibrate a model; return it and what judges variants of it.

    The float model is judged before, as calibration may take long: data and metrics of no use are
    found then.
    """
    metric, memory = find_metric(goal.metric), None if state is None else state / "scores.json"
    known, found = read_scores(memory), draft(request)
    given = request.calibration if goal.evaluation is None else goal.evaluation
    changed = msgspec.structs.replace(request.config, samples=goal.samples)
    judged = Request(request.source, given, changed, images=request.images)
    name = "calibration" if goal.evaluation is None else "evaluation"
    data = calibration_data(judged, input_specs(found.base), name)
    evaluation = Evaluation(data, metric, request.options)
    baseline = evaluation.baseline(found.base)
    ready = prepare(request, found)
    digest = hashlib.sha256(msgspec.json.encode(request.config))
    for name, grid in sorted(ready.plan.grids.items()):
        digest.update(f"{name} {grid.scale} {grid.zero}".encode())
    digest.update(metric_source(goal.metric))
    judge = Judge(
        evaluation=evaluation,
        baseline=baseline,
        write=lambda choices: ready.write(choices={**request.config.layers, **choices}),
        memory=memory,
        key=digest.hexdigest() + baseline.digest(),
        known=known,
    )
    return ready, judge


def finish(
    ready: Prepared,
    choices: Choices,
    target: TargetReport | None = None,
    measured: MeasuredReport | None = None,
) -> Quantized:
    """Write the final model and its report."""
    made = ready.write(choices=choices)
    proto = ir.to_proto(made)
    whole: dict[str, Choice] = {
        x.name: cast(Choice, choices.get(x.name, "int8")) for x in ready.plan.layers
    }
    report = QuantizeReport(
        config=msgspec.structs.replace(ready.plan.config, layers=whole),
        samples=ready.observations.samples,
        quantized={x.name: x.op for x in ready.plan.layers if whole[x.name] != "float"},
        floats=tuple(name for name, choice in whole.items() if choice == "float"),
        skipped=ready.skipped,
        bytes_before=weight_bytes(ready.base),
        bytes_after=weight_bytes(made),
        target=target,
        measured=measured,
    )
    return Quantized(proto, report)

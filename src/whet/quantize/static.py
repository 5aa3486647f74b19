"""Static quantisation after training: optimise, calibrate, choose grids, write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from whet.errors import InputError, OptionError, UnsupportedError, nearest
from whet.optimize.optimize import optimize_graph
from whet.options import Options
from whet.program.records import TensorSpec
from whet.quantize.bias import add_biases, corrected_biases
from whet.quantize.bodies import name_body_values
from whet.quantize.config import QuantizeConfig
from whet.quantize.data import CalibrationData, Source
from whet.quantize.equalize import equalize_layers
from whet.quantize.grid import Grid
from whet.quantize.images import ImageOptions
from whet.quantize.layers import QUANTISED, Layer, Skipped, find_layers, given_grid
from whet.quantize.observe import Observations, Observer, Progress, observe, wanted_values
from whet.quantize.ranges import Target, find_range
from whet.quantize.rounding import rounded_layers
from whet.quantize.smooth import smooth_layers
from whet.quantize.write import Plan, write_plan

Model = str | os.PathLike[str] | bytes | onnx.ModelProto
Shapes = Mapping[str, tuple[int | str, ...]]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be quantised and how.

    Attributes:
        source: path of an ONNX file, its bytes or a ``ModelProto``.
        calibration: calibration data; see ``CalibrationData``. Conversions may do without.
        config: how.
        shapes: shapes by input name.
        options: how models are compiled for calibration and scores.
        images: how images become inputs.
        state: file from which an interrupted calibration goes on.
        progress: called as ``progress(stage, done, total)``.
    """

    source: Model
    calibration: Source | None = None
    config: QuantizeConfig = field(default_factory=QuantizeConfig)
    shapes: Shapes | None = None
    options: Options = field(default_factory=Options)
    images: ImageOptions = field(default_factory=ImageOptions)
    state: Path | None = None
    progress: Progress = lambda stage, done, total: None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model that is ready to be written with any choice of layers.

    Attributes:
        base: the optimised float graph, balanced if that was asked for.
        plan: grids and rounded weights, all layers quantised.
        skipped: products that cannot be quantised.
        observations: what calibration saw.
    """

    base: ir.Model
    plan: Plan
    skipped: tuple[Skipped, ...]
    observations: Observations

    def write(self, **choices: Any) -> ir.Model:
        """Return the quantised model, with other choices or grids if given."""
        plan = replace(self.plan, **choices) if choices else self.plan
        return write_plan(self.base, corrected_biases(self.base, plan, self.observations))


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A model before its values were seen.

    Attributes:
        base: the optimised float graph, balanced and with biases if that was asked for.
        layers: the products that can be quantised, and what lies between them.
        skipped: products that cannot be.
        data: the calibration data.
    """

    base: ir.Model
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    data: CalibrationData


def draft(request: Request) -> Draft:
    """Optimise a model and find its layers.

    Raises:
        UnsupportedError: nothing in the model can be quantised.
        WhetError: the model is damaged, or the request is not valid.
    """
    config = request.config
    base = optimize_graph(request.source, shapes=request.shapes).model
    name_body_values(base)
    if config.equalize:
        equalize_layers(base)
    if config.bias_correction:
        add_biases(base)
    layers, skipped = find_layers(base, config)
    _check_choices(layers, skipped, config)
    return Draft(base, layers, skipped, calibration_data(request, input_specs(base)))


def prepare(request: Request, found: Draft) -> Prepared:
    """Calibrate a model and choose its grids; smoothing changes the graph of the draft.

    Raises:
        InputError: the data does not fit the model.
        WhetError: the model cannot be compiled.
    """
    config, base, layers = request.config, found.base, found.layers
    observer = Observer(config, request.options, request.state, request.progress)
    seen = observe(base, layers, found.data, observer)
    if config.smooth is not None and smooth_layers(base, layers, seen, config.smooth):
        observer = replace(observer, state=None)
        seen = observe(base, layers, found.data, observer)  # ranges and moments have moved
    grids = {**find_grids(seen, config), **given_grids(base)}
    ready = tuple(x for x in layers if all(n in grids for n in wanted_values(base, (x,))))
    unseen = tuple(Skipped(x.name, x.op, _NEVER_RAN) for x in layers if x not in ready)
    if not ready:
        raise _nothing(unseen)
    plan = Plan(config, ready, dict(config.layers), grids)
    return Prepared(base, rounded_layers(base, plan, seen), (*found.skipped, *unseen), seen)


_NEVER_RAN = "its body never ran on the calibration data"


def calibration_data(
    request: Request, specs: tuple[TensorSpec, ...], name: str = "calibration"
) -> CalibrationData:
    """Return the calibration data of a request; errors call it by ``name``.

    Raises:
        InputError: it has none.
    """
    config = request.config
    if request.calibration is None:
        raise InputError(
            "there is no calibration data",
            where="calibration",
            hint="give files, or a folder of them",
        )
    return CalibrationData(
        request.calibration, specs, config.batch, config.samples, request.images, name
    )


def find_grids(seen: Observations, config: QuantizeConfig) -> dict[str, Grid]:
    """Return the grid of every observed value, as the calibrator chooses it."""
    target = Target(config.activations, config.activations_symmetric, config.percentile)
    return {
        name: target.grid(find_range(config.calibrator, histogram, target))
        for name, histogram in seen.histograms.items()
    }


def given_grids(model: ir.Model) -> dict[str, Grid]:
    """Return the grids that values have in the model already, by name."""
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    found = {value.name or "": given_grid(value) for value in values}
    return {name: grid for name, grid in found.items() if grid is not None}


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Describe what a graph takes."""
    made = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None:
            raise UnsupportedError("an input has no type or shape", where=value.name)
        dims = tuple(d if isinstance(d, int) else str(d.value or "?") for d in value.shape)
        made.append(TensorSpec(value.name or "", value.dtype.numpy().name, dims))
    return tuple(made)


def _nothing(skipped: tuple[Skipped, ...]) -> UnsupportedError:
    why = f": {skipped[0].name}: {skipped[0].why}" if skipped else ""
    return UnsupportedError(
        f"nothing in the model can be quantised{why}",
        hint="products with constant float32 weights can: Conv, Gemm, MatMul",
    )


def _check_choices(
    layers: tuple[Layer, ...], skipped: tuple[Skipped, ...], config: QuantizeConfig
) -> None:
    names = [layer.name for layer in layers]
    if not names:
        raise _nothing(skipped)
    for operator in config.skip_ops:
        if not onnx.defs.has(operator):
            raise OptionError(
                f"there is no operator {operator!r}", where="skip_ops",
                hint=nearest(operator, sorted(QUANTISED)),
            )  # fmt: skip
    for name in config.layers:
        if name not in names:
            raise OptionError(
                f"there is no layer {name!r}", where="layers", hint=nearest(name, names)
            )

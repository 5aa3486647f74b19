"""Calibration: the float model runs on data, and of every value a histogram is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.array_files import load_arrays
from whet.errors import ArtifactError, InputError, ModelError
from whet.options import Options
from whet.quantize.bodies import all_nodes
from whet.quantize.body_runs import BodyRuns
from whet.quantize.config import QuantizeConfig
from whet.quantize.data import Batch, CalibrationData, array_bytes
from whet.quantize.histogram import Histogram, restored
from whet.quantize.layers import Layer, root_of
from whet.quantize.moments import Moments, matrix_of, restored_moments, rows_read, weight_of
from whet.whole_files import write_whole

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)

_SAVE_EVERY = 16
"""Batches between two writes of the state."""


@dataclass(slots=True)
class Observations:
    """What was learned of a model's values.

    Attributes:
        histograms: by the name of the value.
        moments: of what products read, by layer; empty unless asked for.
        batches: batches that were run.
        samples: samples in them.
        data: hash of them, where a state is kept.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0
    data: str = ""


@dataclass(frozen=True, slots=True)
class Observer:
    """How a model is observed.

    Attributes:
        config: what has to be known, and the seed.
        options: how the model is compiled.
        state: file from which an interrupted calibration goes on; ``None`` keeps none.
        progress: called as ``progress(stage, done, total)``; the total is 0 where nobody knows.
    """

    config: QuantizeConfig
    options: Options
    state: Path | None = None
    progress: Progress = lambda stage, done, total: None


def wanted_values(model: ir.Model, layers: tuple[Layer, ...]) -> dict[str, ir.Value]:
    """Return the values whose ranges are needed: those that layers read, before movers."""
    nodes = all_nodes(model)
    wanted: dict[str, ir.Value] = {}
    for layer in layers:
        for position in layer.activations:
            value = nodes[layer.name].inputs[position]
            assert value is not None
            root = root_of(value)
            wanted[root.name or ""] = root
    return wanted


def observe(
    model: ir.Model, layers: tuple[Layer, ...], data: CalibrationData, how: Observer
) -> Observations:
    """Run a model on calibration data.

    Raises:
        InputError: the data does not fit, or makes values that are not finite.
        WhetError: the model cannot be compiled.
    """
    values = wanted_values(model, layers)
    readers = _product_inputs(model, layers) if how.config.needs_moments else {}
    names = sorted({*values, *readers.values()})
    runs = BodyRuns(model, names, how.options)
    key = _key(model, names, how.config) if how.state is not None else ""
    found = _resumed(how.state, key)
    nodes = all_nodes(model)
    chosen = {x.name: (nodes[x.name], x) for x in layers}
    seen = _Seen(how.state, found)
    for number, batch in enumerate(data.batches()):
        if seen.before(batch):
            continue
        for results in runs.run(batch.feeds):
            _check_finite(results, batch)
            for name in values.keys() & results.keys():
                found.histograms.setdefault(name, Histogram()).add(results[name])
            for layer, name in readers.items():
                if name in results:
                    _add_rows(found.moments, chosen[layer], results[name], how.config.seed + number)
        found.batches += 1
        found.samples += _size(batch)
        how.progress("calibrate", found.batches, 0)
        if how.state is not None and found.batches % _SAVE_EVERY == 0:
            _save(how.state, key, found)
    seen.finish()
    if how.state is not None:
        _save(how.state, key, found)
    return found


class _Seen:
    """Tells batches that a state has from new ones, and that they are the same as then."""

    def __init__(self, state: Path | None, found: Observations) -> None:
        self._state, self._found = state, found
        self._resumed, self._number = found.batches, 0
        self._digest = hashlib.sha256()

    def before(self, batch: Batch) -> bool:
        """Tell whether a batch was seen before the interruption."""
        if self._state is None:
            return False
        self._number += 1
        for name, array in sorted(batch.feeds.items()):
            self._digest.update(f"{name} {array.dtype} {array.shape}".encode())
            self._digest.update(array_bytes(array))
        if self._number == self._resumed and self._digest.hexdigest() != self._found.data:
            raise self._other()
        if self._number > self._resumed:
            self._found.data = self._digest.hexdigest()
        return self._number <= self._resumed

    def finish(self) -> None:
        """Check that nothing of what was seen has gone."""
        if self._number < self._resumed:
            raise self._other()

    def _other(self) -> ModelError:
        return ModelError(
            "the calibration state is of other data",
            where=str(self._state),
            hint="delete it to start again, or name another folder",
        )


def _size(batch: Batch) -> int:
    return len(next(iter(batch.feeds.values())))


def _add_rows(
    moments: dict[str, Moments], chosen: tuple[ir.Node, Layer], values: Array, seed: int
) -> None:
    node, layer = chosen
    rows = rows_read(node, layer, values, seed)
    if rows is None:
        return
    if layer.name not in moments:
        groups, _, depth = matrix_of(weight_of(node, layer), node, layer).shape
        moments[layer.name] = Moments(groups, depth)
    moments[layer.name].add(rows, layer.name)


def _product_inputs(model: ir.Model, layers: tuple[Layer, ...]) -> dict[str, str]:
    nodes = all_nodes(model)
    found: dict[str, str] = {}
    for layer in layers:
        if layer.weight is not None and layer.activations:
            value = nodes[layer.name].inputs[layer.activations[0]]
            found[layer.name] = (value.name or "") if value is not None else ""
    return found


def _check_finite(results: Mapping[str, Array], batch: Batch) -> None:
    for name, array in results.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"the float model computes NaN or infinity in {name!r}",
                where=batch.where,
                hint="leave such samples out, or repair the model",
            )


def _key(model: ir.Model, names: list[str], config: QuantizeConfig) -> str:
    """Return what a state must have in common with a calibration that goes on from it."""
    digest = hashlib.sha256()
    for node in model.graph.all_nodes():
        digest.update(f"{node.op_type} {node.name} {[v and v.name for v in node.inputs]}".encode())
        plain = [a for a in node.attributes.values() if a.type not in _GRAPHS]
        digest.update(f"{sorted((a.name, str(a.value)) for a in plain)}".encode())
    for graph in model.graphs():
        digest.update(f"{[v.name for v in (*graph.inputs, *graph.outputs)]}".encode())
        for value in graph.initializers.values():
            if value.const_value is not None:
                digest.update(np.ascontiguousarray(value.const_value.numpy()).tobytes())
    facts = [names, config.batch, config.samples, config.seed, config.needs_moments]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _save(path: Path, key: str, found: Observations) -> None:
    """Write the state, whole or not at all."""
    arrays: dict[str, Array] = {"key": np.array(key)}
    arrays["done"] = np.array([found.batches, found.samples])
    arrays["data"] = np.array(found.data)
    for kind, items in (("h", found.histograms), ("m", found.moments)):
        for name, item in items.items():
            for part, array in item.state().items():
                arrays[f"{kind}/{part}/{name}"] = array
    write_whole(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _resumed(path: Path | None, key: str) -> Observations:
    """Return the state of an interrupted calibration, or an empty one."""
    if path is None or not path.exists():
        return Observations()
    again = "delete it and start again"
    try:
        arrays = load_arrays(path, hint=again)
    except InputError as error:
        reason = f"not a calibration state: {error.message}"
        raise ArtifactError(reason, where=str(path), hint=again) from error
    if not isinstance(arrays, dict) or str(arrays.get("key")) != key:
        raise ModelError(
            "the calibration state is of another model or configuration",
            where=str(path),
            hint="delete it to start again, or name another folder",
        )
    try:
        return _restored(arrays)
    except KeyError as error:
        raise ArtifactError(
            "the calibration state is incomplete", where=str(path), hint=again
        ) from error
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"the calibration state is damaged: {error}", where=str(path), hint=again
        ) from error


def _restored(arrays: Mapping[str, Array]) -> Observations:
    parts: dict[tuple[str, str], dict[str, Array]] = {}
    for label, array in arrays.items():
        if label not in ("key", "done", "data"):
            kind, part, name = label.split("/", 2)
            parts.setdefault((kind, name), {})[part] = array
    batches, samples = (int(n) for n in arrays["done"])
    histograms = {n: restored(state) for (kind, n), state in parts.items() if kind == "h"}
    moments = {n: restored_moments(state) for (kind, n), state in parts.items() if kind == "m"}
    return Observations(histograms, moments, batches, samples, str(arrays["data"]))

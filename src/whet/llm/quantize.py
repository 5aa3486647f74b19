"""Quantising a checkpoint folder: its matrices become blocks of few bits, the rest stays.

``plain`` takes the nearest code. ``gptq`` hands the error of a weight on to those behind it, as the
moments of what the matrix reads say (Frantar et al., 2022). ``awq`` first gives channels that
activations make important a larger share of the grid, and takes that back in the norm in front (Lin
et al., 2023).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from whet.errors import InputError, ModelError, UnsupportedError
from whet.kernel.block_formats import FORMATS
from whet.llm.architecture import Architecture, Array, Part
from whet.llm.calibrate import Moments, gather_moments
from whet.llm.checkpoints.block_grids import CODES, block_bytes, block_grid
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.safetensors_file import Entry, write_safetensors
from whet.llm.families.table import architecture_of
from whet.llm.graphs.decoder import decoder_graph
from whet.options import Options
from whet.whole_files import write_bytes, write_errors

Method = Literal["plain", "gptq", "awq"]
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_KEPT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
_ALPHAS = np.linspace(0.05, 1.0, 20)

Rounder = Callable[[Array, Array, tuple[Array, Array], tuple[int, int]], Array]
"""Rounds rows: weights, moments, scale and zero point of every weight, limits of the codes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to quantise.

    Attributes:
        kind: format of the matrices, one of ``whet.llm.checkpoints.block_grids.CODES``.
        method: see above.
        chunks: tokens to calibrate with, each chunk a sequence of its own.
        rounder: rounds rows for ``gptq``.
        options: how to compile what calibrates.
    """

    kind: str
    method: Method = "plain"
    chunks: Sequence[Sequence[int]] = ()
    rounder: Rounder | None = None
    options: Options | None = None

    def __post_init__(self) -> None:
        if self.kind not in CODES:
            raise InputError(f"format {self.kind!r}", hint=f"known: {', '.join(CODES)}")
        if self.method != "plain" and not self.chunks:
            raise InputError(f"{self.method} needs texts to calibrate with", hint="give some")
        if self.method == "gptq" and self.rounder is None:
            raise InputError("gptq needs a rounder", hint="whet.quantize.rounding.gptq_rows")


@dataclass(slots=True)
class _Plan:
    """What becomes of the tensors of a folder.

    Attributes:
        matrices: names of those that are quantised.
        moments: of what a matrix reads.
        factors: what a matrix's channels are multiplied by.
        divisors: what the channels of norms are divided by, and what a norm keeps its weights less.
    """

    matrices: list[str]
    moments: dict[str, Moments] = field(default_factory=dict)
    factors: dict[str, Array] = field(default_factory=dict)
    divisors: dict[str, tuple[Array, float]] = field(default_factory=dict)


def quantize_folder(source: Path, target: Path, recipe: Recipe) -> list[str]:
    """Write a quantised checkpoint folder; return the names of the matrices that became blocks.

    Raises:
        ArtifactError: the target cannot be written; nothing is left of it.
        InputError: the target exists.
        ModelError: the checkpoint is incomplete, or cannot be read.
        UnsupportedError: no matrix can be quantised.
    """
    if target.exists():
        raise InputError("the target exists", where=str(target), hint="remove it, or name another")
    folder = TensorFolder(source)
    arch = architecture_of(folder.config)
    plan = _Plan(_matrices(arch, folder, recipe.kind))
    if not plan.matrices:
        raise UnsupportedError("no matrix can be quantised", where=str(source))
    if recipe.method != "plain":
        _calibrate(plan, arch, folder, recipe)
    _write(folder, target, plan, recipe)
    return plan.matrices


def _matrices(arch: Architecture, folder: TensorFolder, kind: str) -> list[str]:
    """Return the matrices of the layers whose rows divide into blocks."""
    found: dict[str, None] = {}
    for layer in arch.layers:
        for role in MATRICES:
            part = layer.parts.get(role)
            if part is None or part.transposed or part.plus:
                continue
            if folder.shape(part.name)[-1] % FORMATS[kind].block == 0:
                found[part.name] = None
    return list(found)


def _calibrate(plan: _Plan, arch: Architecture, folder: TensorFolder, recipe: Recipe) -> None:
    """Gather moments, and choose the factors of channels where the method has any."""
    longest = max(map(len, recipe.chunks))
    graph = decoder_graph(arch, folder, longest)
    known = set(plan.matrices)
    for name, moments in gather_moments(graph, recipe.chunks, recipe.options).items():
        readers = [reader.split("[")[0] for reader in moments.readers]
        for reader in readers:
            if reader in known:
                plan.moments[reader] = moments
        if recipe.method == "awq" and set(readers) <= known:
            norm = _norm_of(graph, name, arch)
            if norm is not None:
                _scale(plan, folder, norm, readers, recipe.kind)


def _norm_of(graph: ir.Model, name: str, arch: Architecture) -> Part | None:
    """Return the norm that gives a value, if its weights can take a factor."""
    for node in graph.graph:
        if node.outputs[0].name != name:
            continue
        if node.op_type != "RMSNormalization" or node.inputs[1] is None:
            return None
        weight = str(node.inputs[1].name).split("[")[0]
        parts = [p for layer in arch.layers for p in layer.parts.values()]
        return next((p for p in parts if p.name == weight), None)
    return None


def _scale(
    plan: _Plan, folder: TensorFolder, norm: Part, readers: Sequence[str], kind: str
) -> None:
    """Choose the factors whose rounded matrices change the results least."""
    names = list(dict.fromkeys(readers))
    moments = plan.moments[names[0]]
    mean, gram = moments.absolute / max(moments.rows, 1), moments.gram / max(moments.rows, 1)
    matrices = [folder.tensor(name) for name in names]
    ones = np.ones(len(mean))
    tried = [ones, *(_factor(mean, alpha) for alpha in _ALPHAS)]
    losses = [sum(_loss(m, factor, gram, kind) for m in matrices) for factor in tried]
    best = tried[int(np.argmin(losses))]
    if best is ones:
        return
    plan.divisors[norm.name] = best, norm.plus
    plan.factors.update(dict.fromkeys(names, best))


def _factor(mean: Array, alpha: float) -> Array:
    """Return factors whose logarithms have the mean 0 of their extremes."""
    s = np.where(mean > 0, mean, 1.0) ** alpha
    return np.asarray(np.clip(s / np.sqrt(s.max() * s.min()), 1e-4, 1e4))


def _loss(matrix: Array, factor: Array, gram: Array, kind: str) -> float:
    """Return ``Σ e H eᵀ`` over rows of ``e = Q(W S) / s - W``."""
    scaled = matrix * factor
    grid = block_grid(kind, scaled)
    error = grid.floats(grid.nearest(scaled)) / factor - matrix
    return float(((error @ gram) * error).sum())


# -- writing ---------------------------------------------------------------------------------------


def _write(folder: TensorFolder, target: Path, plan: _Plan, recipe: Recipe) -> None:
    """Write the folder under a temporary name, then under its own; of a failure nothing stays."""
    part = target.with_name(f".{target.name}.part")
    try:
        with write_errors(target):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        _fill(folder, part, plan, recipe)
        with write_errors(target):
            os.replace(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _fill(folder: TensorFolder, part: Path, plan: _Plan, recipe: Recipe) -> None:
    entries = {name: _entry(folder, name, plan, recipe) for name in folder.names}
    write_safetensors(part / "model.safetensors", entries)
    formats = dict.fromkeys(plan.matrices, recipe.kind)
    method = {"quant_method": "whet", "rounding": recipe.method, "tensors": formats}
    values: dict[str, Any] = {**folder.config.values, "quantization_config": method}
    write_bytes(part / "config.json", json.dumps(values, indent=1).encode())
    for name in _KEPT:
        if (folder.folder / name).exists():
            write_bytes(part / name, _read(folder.folder / name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check permissions"
        ) from error


def _entry(folder: TensorFolder, name: str, plan: _Plan, recipe: Recipe) -> Entry:
    shape = folder.shape(name)
    if name in plan.divisors:
        return Entry("float32", shape, partial(_divided, folder, name, *plan.divisors[name]))
    if name not in plan.matrices:
        return Entry("float32", shape, partial(folder.tensor, name))
    size = FORMATS[recipe.kind].row_bytes(shape[1])
    return Entry("uint8", (shape[0], size), partial(_blocks, folder, name, plan, recipe))


def _divided(folder: TensorFolder, name: str, factor: Array, plus: float) -> Array:
    return ((folder.tensor(name) + plus) / factor - plus).astype(np.float32)


def _blocks(folder: TensorFolder, name: str, plan: _Plan, recipe: Recipe) -> Array:
    """Return a matrix as rows of bytes."""
    weights = folder.tensor(name) * plan.factors.get(name, 1.0)
    grid = block_grid(recipe.kind, weights)
    moments = plan.moments.get(name)
    if recipe.method != "gptq" or moments is None or recipe.rounder is None:
        return block_bytes(recipe.kind, grid.nearest(weights), grid)
    gram = moments.gram / max(moments.rows, 1)
    codes = recipe.rounder(weights.astype(np.float64), gram, grid.parameters(), grid.limits)
    return block_bytes(recipe.kind, np.clip(codes, *grid.limits), grid)

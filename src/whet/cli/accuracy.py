"""What the commands about accuracy share: the model, its inputs, golden outputs and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import whet
from whet.array_files import load_arrays
from whet.cli import arrays
from whet.cli.opening import Array, is_compiled
from whet.cli.parameters import compiler_options, dim_option, parse_dims, read_options
from whet.dtypes import DTYPES, numpy_dtype
from whet.errors import InputError, nearest
from whet.program.records import TensorSpec

if TYPE_CHECKING:
    import onnx

    from whet.measure.accuracy.limits import Limits
    from whet.measure.accuracy.recipe import Recipe
    from whet.measure.accuracy.reference import Golden

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
                 help="As for whet run; random if not given."),
    click.option("--golden", type=click.Path(path_type=Path), metavar="F",
                 help="A .npz or .npy file of right outputs, instead of a reference."),
    click.option("--reference", type=click.Choice(["auto", "ort", "onnx"]), default="auto",
                 show_default=True,
                 help="Who computes right outputs; auto takes ONNX Runtime where it can."),
    click.option("--threshold", "thresholds", multiple=True, metavar="METRIC=NUMBER",
                 help="A limit instead of the defaults, or a set: ascend, exact; may be repeated."),
    dim_option,
    compiler_options,
)  # fmt: skip


def accuracy_options(function: Decorated) -> Decorated:
    """Add the options that say what is compared with what; ``read_case`` takes them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Case:
    """A model, inputs, and what is right.

    Attributes:
        path: the ONNX file.
        model: its content.
        feeds: an array for each input.
        recipe: how to compile.
        reference: who computes golden values.
        golden: golden outputs from a file, if given.
        golden_file: that file.
        limits: limits by metric, if given.
    """

    path: Path
    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    recipe: Recipe
    reference: str
    golden: Mapping[str, Array] | None
    golden_file: Path | None
    limits: Limits | None


def read_case(path: Path, values: Mapping[str, Any], subject: Path | None = None) -> Case:
    """Read a model and what the options of ``accuracy_options`` name.

    Args:
        path: the model.
        values: the options.
        subject: what is compared with the model; dimensions that the model leaves open are those
            that a compiled file was made for.

    Raises:
        WhetError: a file cannot be read, or an option is not valid.
    """
    from whet.measure.accuracy.graphs import input_specs, read_proto
    from whet.measure.accuracy.limits import parse_limits
    from whet.measure.accuracy.recipe import Recipe

    shapes, options = read_options(values)
    limits = parse_limits(values["thresholds"])
    model = read_proto(path)
    specs = input_specs(model, shapes)
    if subject is not None and is_compiled(subject):
        specs = _closed(specs, whet.load(subject, foreign=True).inputs)
    feeds = arrays.read_inputs(values["sources"], specs, parse_dims(values["dims"]))
    _check_feeds(specs, feeds)
    golden = None
    if values["golden"] is not None:
        loaded = load_arrays(values["golden"])
        golden = loaded if isinstance(loaded, dict) else {model.graph.output[0].name: loaded}
    return Case(
        path=path,
        model=model,
        feeds=feeds,
        recipe=Recipe(options, shapes),
        reference=values["reference"],
        golden=golden,
        golden_file=values["golden"],
        limits=limits,
    )


def _check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Refuse inputs that the model does not take, of which a reference says what it stumbled on.

    Raises:
        InputError: one is unknown, missing, or of another type or shape.
    """
    known = [spec.name for spec in specs]
    for name in feeds:
        if name not in known:
            raise InputError(f"unknown input {name!r}", hint=nearest(name, known))
    for spec in specs:
        where = f"input {spec.name!r}"
        if spec.name not in feeds:
            raise InputError("it is missing", where=where, hint=f"--input {spec.name}=x.npy")
        array = feeds[spec.name]
        if spec.dtype in DTYPES and array.dtype != numpy_dtype(spec.dtype):
            raise InputError(f"dtype is {array.dtype}, the model takes {spec.dtype}", where=where)
        if spec.shape and not _takes(spec.shape, array.shape):
            raise InputError(f"shape is {array.shape}, the model takes {spec.shape}", where=where)


def _takes(shape: tuple[int | str, ...], given: tuple[int, ...]) -> bool:
    pairs = zip(shape, given, strict=False)
    return len(shape) == len(given) and all(isinstance(d, str) or d == n for d, n in pairs)


def _closed(specs: Sequence[TensorSpec], made: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return inputs with the numbers of another program's where they are open."""
    known = {spec.name: spec.shape for spec in made}
    closed = []
    for spec in specs:
        shape = known.get(spec.name, spec.shape)
        if len(shape) == len(spec.shape):
            pairs = zip(spec.shape, shape, strict=True)
            numbers = tuple(theirs if isinstance(ours, str) else ours for ours, theirs in pairs)
            spec = TensorSpec(spec.name, spec.dtype, numbers)
        closed.append(spec)
    return tuple(closed)


def golden_of(case: Case) -> Golden:
    """Return the right outputs: those of the file, or what the reference computes.

    Raises:
        UnsupportedError: the reference cannot run the model.
    """
    from whet.measure.accuracy.reference import Golden, run_golden

    if case.golden is not None:
        return Golden(source=str(case.golden_file), values=dict(case.golden))
    return run_golden(case.model, case.feeds, case.reference)

"""Models of open dimensions against the same models compiled for one shape.

``python -m benchmarks.dynamic --models bert_base,resnet50 --threads 1,2`` compiles each model once
for any shape and once for each shape of a grid, runs both call by call in one process, then
measures what the first call of a new shape costs beyond the call itself, and how private memory
grows over 1,000 shapes. It writes ``benchmarks/results/<device>.dynamic.md``, where lines that are
not measured anew stay, so that a grid can be measured in slices. ``--prepare-only`` stops before
the measurement, which finds exports and kernels in the caches then; with ``--prepared`` it also
takes the open program that was left there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import whet
from benchmarks.models.export import BATCH_SEED, DEFAULT_CACHE, build
from benchmarks.models.inputs import Array, InputSpec, make_inputs
from benchmarks.models.registry import MODELS
from benchmarks.run import RESULTS, device_slug
from whet.cli.opening import ReadyRunner
from whet.measure.interleave import Plan, measure_interleaved
from whet.measure.machine import describe_machine
from whet.measure.statistics import compare, summarise
from whet.runtime.model import CompiledModel

Shape = tuple[int, ...]
SHAPES_OF_LIFE = 1000
NEW_SHAPES = 12
CALLS_AFTER = 3
LIMIT = 1.15


@dataclass(frozen=True, slots=True)
class Open:
    """A model of the table with open dimensions.

    Attributes:
        source: its name in the table of models.
        axes: names of the open dimensions by axis, the same in all inputs.
        grid: the shapes, as values of these axes, that it is compared at.
    """

    source: str
    axes: dict[int, str]
    grid: tuple[Shape, ...]

    def inputs(self, sizes: Shape) -> tuple[InputSpec, ...]:
        """Return the inputs with the open dimensions filled in."""
        found = []
        for spec in MODELS[self.source].inputs:
            shape = list(spec.shape)
            for axis, size in zip(self.axes, sizes, strict=True):
                shape[axis] = size
            found.append(InputSpec(spec.name, tuple(shape), spec.kind, spec.vocabulary))
        return tuple(found)

    def feed(self, sizes: Shape, seed: int = 11) -> dict[str, Array]:
        """Return inputs of given sizes."""
        return make_inputs(self.inputs(sizes), seed)


_TEXT = {0: "batch", 1: "sequence"}
_TEXTS = tuple(itertools.product((1, 2, 4, 8), (16, 64, 128, 384)))
OPEN = {
    "bert_base": Open("bert_base_128", _TEXT, _TEXTS),
    "minilm": Open("minilm", _TEXT, ((1, 16), (1, 128), (8, 128))),
    "resnet50": Open("resnet50", {0: "batch"}, ((1,), (2,), (4,), (8,))),
}


def exported(name: str, cache: Path) -> Path:
    """Return the ONNX file of a model with open dimensions; it is made if the cache lacks it."""
    import torch

    target = cache / f"{name}.open.onnx"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    model, spec = OPEN[name], MODELS[OPEN[name].source]
    arguments = make_inputs(model.inputs((2, 32)[: len(model.axes)]), BATCH_SEED)
    names = (*arguments, *spec.outputs)
    partial = target.with_suffix(".partial")
    with torch.no_grad():
        torch.onnx.export(
            build(model.source),
            tuple(torch.from_numpy(a) for a in arguments.values()),
            partial,
            input_names=list(arguments),
            output_names=list(spec.outputs),
            dynamic_axes={n: dict(model.axes) for n in names},
            opset_version=spec.opset,
            dynamo=False,
        )
    os.replace(partial, target)
    return target


def compiled(name: str, threads: int, cache: Path) -> Path:
    """Return the file of a model for any shape, compiled anew: an old file has old kernels."""
    target = open_path(name, threads, cache)
    whet.compile(exported(name, cache), options=whet.Options(threads=threads)).save(target)
    return target


def open_path(name: str, threads: int, cache: Path) -> Path:
    """Return where the file of a model for any shape lies."""
    return cache / f"{name}.open.{threads}.whet"


def fixed(name: str, threads: int, source: Path, sizes: Shape) -> CompiledModel:
    """Return a model compiled for one shape."""
    shapes = {n: a.shape for n, a in OPEN[name].feed(sizes).items()}
    return whet.compile(source, shapes=shapes, options=whet.Options(threads=threads))


def ratios(name: str, anyone: CompiledModel, source: Path, plan: Plan) -> Callable[[Shape], str]:
    """Return what measures one shape and gives its line of the table."""

    def line(sizes: Shape) -> str:
        feed = OPEN[name].feed(sizes)
        threads = anyone.stats.threads
        one = fixed(name, threads, source, sizes)
        runners = [ReadyRunner("open", anyone.run), ReadyRunner("fixed", one.run)]
        samples = measure_interleaved(runners, [feed], plan)
        ratio = compare(samples, "fixed", "open")
        times = [summarise(samples.seconds[runner.name]) for runner in runners]
        cells = [name, str(threads), " × ".join(map(str, sizes))]
        cells += [f"{t.best_ms:.2f} / {t.median_ms:.2f}" for t in times]
        return f"| {' | '.join([*cells, f'{ratio.ratio:.2f}'])} |"

    return line


def first_calls(name: str, file: Path) -> str:
    """Return what the first call of a new shape costs beyond the calls that follow."""
    model, extra = whet.load(file), []
    shapes = _new_shapes(OPEN[name], NEW_SHAPES + 2)
    for sizes in (*shapes[-2:], *shapes[:-2]):  # the largest two first, so that memory is there
        feed = OPEN[name].feed(sizes)
        times = [_timed(model, feed) for _ in range(1 + CALLS_AFTER)]
        extra.append(times[0] - float(np.median(times[1:])))
    middle = float(np.median(extra[2:])) * 1e3
    return (
        f"{name}: the first call of a new shape takes {middle:.2f} ms more than those that follow "
        f"(median of {NEW_SHAPES} shapes)"
    )


def _new_shapes(model: Open, count: int) -> list[Shape]:
    ranges = [range(1, 9), range(3, 200)][: len(model.axes)]
    found = sorted(itertools.product(*ranges), key=lambda s: (int(np.prod(s)), s))
    return [s for s in found if s not in model.grid][:: max(len(found) // count // 3, 1)][:count]


def _timed(model: CompiledModel, feed: dict[str, Array]) -> float:
    begin = time.perf_counter()
    model(feed)
    return time.perf_counter() - begin


def life(name: str, file: Path) -> str:
    """Return how much private memory a process gains over very many shapes."""
    model, open_ = whet.load(file), OPEN[name]
    grid = itertools.product(range(1, 65), repeat=len(open_.axes))
    shapes = sorted(grid, key=lambda s: int(np.prod(s)))[:SHAPES_OF_LIFE]
    model(open_.feed(shapes[-1]))
    before = _private_bytes()
    for sizes in shapes:
        model(open_.feed(sizes))
    gained = (_private_bytes() - before) / 2**20
    return f"{name}: {len(shapes)} shapes one after another add {gained:.1f} MiB of private memory"


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("Private_Dirty"))


def _sizes(text: str) -> Shape:
    return tuple(int(n) for n in text.split("x"))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="bert_base,resnet50")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--shapes", help="only these, such as 1x16,8x384")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds for each shape")
    parser.add_argument("--no-notes", dest="notes", action="store_false", help="ratios only")
    parser.add_argument("--prepare-only", action="store_true", help="export and compile only")
    parser.add_argument("--prepared", action="store_true", help="take what that left")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds, duration_s=arguments.duration, warm_up=1, lead_in_s=0.0)
    lines: list[str] = []
    notes: list[str] = []
    for name, threads in itertools.product(
        arguments.models.split(","), map(int, arguments.threads.split(","))
    ):
        asked = arguments.shapes
        grid = [_sizes(s) for s in asked.split(",")] if asked else OPEN[name].grid
        left = open_path(name, threads, arguments.cache)
        if not (arguments.prepared and left.exists()):
            compiled(name, threads, arguments.cache)
        if arguments.prepare_only:
            for sizes in grid:
                fixed(name, threads, exported(name, arguments.cache), sizes)
            continue
        line = ratios(name, whet.load(left), exported(name, arguments.cache), plan)
        for sizes in grid:
            lines.append(line(sizes))
            print(lines[-1], flush=True)
    if arguments.prepare_only:
        return
    if arguments.notes:
        notes = _notes(arguments.cache)
    _write(lines, notes)


def _notes(cache: Path) -> list[str]:
    """Return what new shapes cost, measured on the small text encoder."""
    file = compiled("minilm", 1, cache)
    found = [first_calls("minilm", file), life("minilm", file)]
    print(*found, sep="\n")
    return found


def _write(lines: list[str], notes: list[str]) -> None:
    """Write the table; what was measured before and is not measured anew stays."""
    machine = describe_machine()
    path = RESULTS / f"{device_slug(machine)}.dynamic.md"
    before = path.read_text().splitlines() if path.exists() else []
    rows = {_key(x): x for x in before if x.startswith("| ") and not x.startswith("| model")}
    rows |= {_key(x): x for x in lines}
    told = {x.partition(" shape")[0]: x for x in before if x.startswith("minilm:")}
    told |= {x.partition(" shape")[0]: x for x in notes}
    head = (
        f"{machine.cpu}, {machine.cpus} CPUs; best / median ms; the ratio is the open program's "
        f"time over that of the program for one shape, median of pairs; at most {LIMIT} is asked.\n"
    )
    table = (
        "| model | threads | shape | open | one shape | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    )
    parts = ["# Open dimensions", "", head, *table, *(rows[k] for k in sorted(rows)), ""]
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join([*parts, *(f"{x}\n" for x in told.values())]))
    os.replace(partial, path)
    print(path)


def _key(line: str) -> tuple[str, tuple[int, ...]]:
    """Return what a line of the table is about: the model, threads and extents."""
    name, threads, shape = (cell.strip() for cell in line.split("|")[1:4])
    return name, (int(threads), *map(int, shape.split(" × ")))


if __name__ == "__main__":
    main()

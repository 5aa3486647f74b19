"""What measurements of reduced precision share: the same model small and in float32, in turns."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import whet
from benchmarks.models.export import DEFAULT_CACHE, ensure, model_path
from benchmarks.models.inputs import Array
from benchmarks.run import RESULTS, device_slug
from whet.measure.interleave import Samples
from whet.measure.machine import describe_machine
from whet.measure.memory import measure_memory
from whet.measure.runner import Runner
from whet.measure.statistics import compare, summarise

Feed = dict[str, Array]


class Named:
    """A runner under another name, so that two of one runtime can take turns."""

    def __init__(self, name: str, inner: Runner) -> None:
        self.name = name
        self.prepare = inner.prepare
        self.run = inner.run


def compiled(source: Path, threads: int) -> Path:
    """Return Whet's compiled file of a model."""
    target = source.with_suffix(f".{threads}.whet")
    whet.compile(source, options=whet.Options(threads=threads)).save(target)
    return target


def option_parser(about: str | None, models: str) -> argparse.ArgumentParser:
    """Return a parser of the options that these measurements share; ``models`` is the default."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--models", default=models)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--duration", type=float, help="seconds after which rounds stop")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    return parser


def exported(model: str, cache: Path) -> Path:
    """Return the float32 ONNX file of a model."""
    found = ensure(model, "torchscript", cache)
    if found.error:
        raise SystemExit(f"{model}: export failed: {found.error}")
    return model_path(model, "torchscript", cache)


def first_outputs(runners: Sequence[Runner], feed: Feed) -> dict[str, Array]:
    """Prepare runtimes and return the first output of each, flat."""
    outputs = {}
    for runner in runners:
        runner.prepare()
        outputs[runner.name] = next(iter(runner.run(feed).values())).ravel()
    return outputs


def sizes(small: Path, large: Path, feed: Feed, threads: int) -> list[str]:
    """Return MiB of two compiled files, and what each adds to a process that loads and runs it."""
    pair = (small, large)
    return [
        _both(p.stat().st_size for p in pair),
        _both(_resident(p, feed, threads) for p in pair),
    ]


def _both(numbers: Iterable[float]) -> str:
    """Return bytes of two things in MiB, and the first as a share of the second."""
    small, large = numbers
    return f"{small / 2**20:.0f} / {large / 2**20:.0f} ({small / large:.0%})"


def _resident(file: Path, feed: Feed, threads: int) -> int:
    """Return bytes that loading a compiled file and one run add to a fresh process."""
    use = measure_memory("whet", file, feed, threads=threads)
    return use.after_bytes - use.before_bytes


def times(samples: Samples, names: Sequence[str]) -> list[str]:
    """Return best and median milliseconds of each runtime."""
    found = (summarise(samples.seconds[name]) for name in names)
    return [f"{t.best_ms:.2f} / {t.median_ms:.2f}" for t in found]


def ratios(samples: Samples, names: Sequence[str]) -> list[str]:
    """Return how many times as long as Whet each runtime takes, the median of pairs."""
    return [f"{compare(samples, 'whet', name).ratio:.2f}" for name in names]


def write_table(kind: str, header: Sequence[str], lines: Sequence[str]) -> Path:
    """Write ``benchmarks/results/<device>.<kind>.md`` and return its path."""
    machine = describe_machine()
    path = RESULTS / f"{device_slug(machine)}.{kind}.md"
    note = f"{machine.cpu}, {machine.cpus} CPUs; best / median ms; ratios are medians of pairs.\n"
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join([f"# {kind}", "", note, *header, *lines, ""]))
    os.replace(partial, path)
    return path

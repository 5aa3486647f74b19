"""The steps of ``whet migrate``: each writes what it found, so that a later run goes on there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

import whet
from whet.check import check
from whet.cli import arrays, bench, output
from whet.cli.parameters import parse_dims, read_options
from whet.cli.progress import ProgressBar
from whet.cli.tune import tune_file
from whet.errors import ArtifactError
from whet.options import Options
from whet.words import counted

Facts = dict[str, Any]
FEEDS = 3
TUNE_NOTE = "not asked for (--tune SECONDS); kernels take the default schedules"


@dataclass(frozen=True, slots=True)
class Migration:
    """One model on its way.

    Attributes:
        model: the ONNX file.
        folder: where everything is written.
        values: the command's options.
        mark: stands for model and options; steps of another mark are done again.
        progress: is told of steps.
    """

    model: Path
    folder: Path
    values: Mapping[str, Any]
    mark: str
    progress: ProgressBar

    @property
    def compiled(self) -> Path:
        """Where the compiled file is."""
        return self.folder / f"{self.model.stem}.whet"

    @property
    def options(self) -> tuple[Any, Options]:
        """Shapes and options of the compiler, with what was tuned."""
        shapes, options = read_options(self.values)
        tuned = self.tuning.is_file() and self.values["tune"] is not None
        return shapes, replace(options, tuning=self.tuning) if tuned else options

    @property
    def tuning(self) -> Path:
        """Where tuned schedules are."""
        return self.folder / "tuning.json"


def assess(way: Migration) -> Facts:
    """Say what is supported and what it costs."""
    shapes, options = way.options
    return check(way.model, shapes=shapes, options=options).as_json()


def compile_model(way: Migration) -> Facts:
    """Compile and save."""
    shapes, options = way.options
    compiled = whet.compile(way.model, shapes=shapes, options=options, progress=way.progress)
    compiled.save(way.compiled)
    stats = compiled.stats
    return {
        "file": way.compiled.name,
        "file_bytes": way.compiled.stat().st_size,
        "compile_s": stats.compile_s,
        "launches": stats.launches,
        "arena_bytes": stats.arena_bytes,
        "weight_bytes": stats.weight_bytes,
    }


def verify(way: Migration) -> Facts:
    """Compare the compiled file with the reference, for several inputs."""
    from whet.measure.accuracy.graphs import read_proto
    from whet.measure.accuracy.limits import parse_limits
    from whet.measure.accuracy.reference import run_golden
    from whet.measure.accuracy.verify import verify_outputs

    loaded, proto = _loaded(way), read_proto(way.model)
    limits = parse_limits(way.values["thresholds"])
    reports: list[Any] = []
    source = ""
    for feed in _feeds(way, loaded):
        golden = run_golden(proto, feed, way.values["reference"])
        reports += verify_outputs(loaded.run(feed), golden, limits)
        source = golden.source
    return {"reference": source, "outputs": msgspec.to_builtins(reports)}


def tune(way: Migration) -> Facts:
    """Find faster schedules, if asked; an interrupted search goes on."""
    seconds = way.values["tune"]
    if seconds is None:
        return {"done": False, "note": TUNE_NOTE}
    facts, _ = tune_file(way.model, way.tuning, seconds, {**way.values, "restart": False})
    note = (
        f"{counted(facts['trials'], 'schedule')} tried, "
        f"faster than the default: {facts['improved']}"
    )
    return {"done": True, "note": note, **{k: v for k, v in facts.items() if k != "entries"}}


def measure(way: Migration) -> Facts:
    """Time the compiled file against the other runtimes."""
    from whet.measure.machine import describe_machine

    loaded = _loaded(way)
    found = bench.measure_model(loaded, way.model, _feeds(way, loaded), dict(way.values))
    return {**found, "machine": msgspec.to_builtins(describe_machine())}


STEPS: dict[str, Callable[[Migration], Facts]] = {
    "assess": assess,
    "tune": tune,
    "compile": compile_model,
    "verify": verify,
    "bench": measure,
}
"""Steps in their order."""


def run_steps(way: Migration, *, restart: bool) -> tuple[dict[str, Facts], list[str]]:
    """Take every step that is not done; return what all found, and which were done before.

    A model with unsupported nodes goes no further than ``assess``.
    """
    found: dict[str, Facts] = {}
    kept: list[str] = []
    for number, (name, step) in enumerate(STEPS.items()):
        way.progress("migrate", number, len(STEPS))
        known = None if restart else _read(way, number, name)
        if known is None:
            way.progress(name, 0, 1)
            start = time.perf_counter()
            result = step(way)
            _write(way, number, name, result, time.perf_counter() - start)
            known = result
            way.progress(name, 1, 1)
        else:
            kept.append(name)
        found[name] = known
        if name == "assess" and known["problems"]:
            break
    way.progress("migrate", len(STEPS), len(STEPS))
    return found, kept


def _place(way: Migration, number: int, name: str) -> Path:
    return way.folder / f"{number + 1}-{name}.json"


def _read(way: Migration, number: int, name: str) -> Facts | None:
    """Return what a step found in an earlier run, if that was for the same model and options."""
    try:
        kept = msgspec.json.decode(_place(way, number, name).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(kept, dict) or kept.get("mark") != way.mark:
        return None
    if name == "compile" and not way.compiled.is_file():
        return None
    result = kept.get("result")
    return result if isinstance(result, dict) else None


def _write(way: Migration, number: int, name: str, result: Facts, seconds: float) -> None:
    facts = {"step": name, "mark": way.mark, "seconds": seconds, "result": result}
    text = output.json_text(facts, "whet.migrate.step.1")
    output.write_text(_place(way, number, name), text + "\n")


def _loaded(way: Migration) -> Any:
    _, options = way.options
    try:
        return whet.load(way.compiled, options.threads or None)
    except ArtifactError as error:
        raise ArtifactError(
            error.message, where=str(way.compiled), hint="remove it, and migrate again"
        ) from error


def _feeds(way: Migration, loaded: Any) -> list[dict[str, Any]]:
    dims = parse_dims(way.values["dims"])
    return arrays.read_feeds(way.values["sources"], loaded.inputs, dims, FEEDS)

"""``whet migrate``: from an ONNX file to an acceptance report, in steps that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from whet import __version__, whole_files
from whet.cli import exits, output
from whet.cli.migration import STEPS, Migration, run_steps
from whet.cli.opening import is_compiled
from whet.cli.parameters import NumberRange, compiler_options, dim_option, json_option, read_options
from whet.cli.progress import ProgressBar
from whet.errors import ModelError, OptionError

SCHEMA = "whet.migrate.1"
_NOT_MARKED = ("latency_ms", "speedup", "memory_mib", "compile_s", "as_json", "cache_dir")
"""Options that change no step, only what is thought of it."""


@click.command("migrate")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path),
              help="Folder for results; MODEL's name with .migration if not given.")  # fmt: skip
@click.option("--latency-ms", type=NumberRange(0.0), metavar="MS",
              help="Accept at most this median latency.")  # fmt: skip
@click.option("--speedup", type=NumberRange(0.0), metavar="RATIO",
              help="Accept if the others take at least RATIO times as long.")  # fmt: skip
@click.option("--memory-mib", type=NumberRange(0.0), metavar="MIB",
              help="Accept at most this much of weights and intermediate results.")  # fmt: skip
@click.option("--compile-s", type=NumberRange(0.0), metavar="S",
              help="Accept at most this time to compile.")  # fmt: skip
@click.option("--threshold", "thresholds", multiple=True, metavar="METRIC=NUMBER",
              help="Limits of accuracy, as for whet verify.")  # fmt: skip
@click.option("--reference", type=click.Choice(["auto", "ort", "onnx"]), default="auto",
              show_default=True, help="Who computes right outputs.")  # fmt: skip
@click.option("--tune", type=NumberRange(0.0), metavar="SECONDS",
              help="Look for faster schedules for so long.")  # fmt: skip
@click.option("--against", default="", metavar="NAMES", help="Other runtimes: ort,openvino.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True,
              help="Calls to time.")  # fmt: skip
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Do all steps again, those that are done too.")
@dim_option
@compiler_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, model: Path, folder: Path | None, **values: Any) -> None:
    """Take the ONNX file MODEL through assess, tune, compile, verify and bench, and judge it.

    Every step writes what it found; run again after an interruption, it goes on where it was. The
    exit code is 1 if a target is missed.

    Example: whet migrate m.onnx --latency-ms 20 --speedup 1.2 --against ort
    """
    from whet.measure.acceptance import Targets, accepted, judge

    if is_compiled(model):
        raise OptionError("a migration starts at the ONNX file", where=str(model), hint="name it")
    targets = Targets(
        **{name: values[name] for name in ("latency_ms", "speedup", "memory_mib", "compile_s")}
    )
    if targets.speedup is not None and not values["against"]:
        raise OptionError("--speedup is asked against nobody", hint="give --against ort")
    if values["tune"] is not None and values["tuning"]:
        raise OptionError("--tune and --tuning exclude each other", hint="give one of them")
    destination = folder or Path(f"{model.stem}.migration")
    mark = _mark(model, values)
    whole_files.make_folder(destination)
    with ProgressBar() as progress:
        way = Migration(model, destination, values, mark, progress)
        results, kept = run_steps(way, restart=values["restart"])
    criteria = judge(results, targets)
    facts = {
        "model": str(model),
        "folder": str(destination),
        "accepted": accepted(criteria),
        "criteria": msgspec.to_builtins(criteria),
        "done_before": kept,
        "results": results,
    }
    _write(destination, facts)
    if values["as_json"]:
        output.print_json(facts, schema=SCHEMA)
    else:
        _print(output.stdout(), facts)
    if not facts["accepted"]:
        ctx.exit(exits.NEGATIVE)


def _mark(model: Path, values: dict[str, Any]) -> str:
    """Return what stands for the model's content and every option that changes a step.

    Raises:
        ModelError: the file cannot be read.
    """
    from whet.measure.accuracy.graphs import read_proto
    from whet.program.container import digest

    read_options(values)
    proto = read_proto(model)
    beside = [e.value for t in proto.graph.initializer for e in t.external_data
              if e.key == "location"]  # fmt: skip
    files = [model, *(model.parent / name for name in sorted(set(beside)))]
    files += [Path(s.rpartition("=")[2]) for s in values["sources"]]
    how = {k: v for k, v in values.items() if k not in (*_NOT_MARKED, "restart")}
    try:
        content = digest(memoryview(model.read_bytes()))
    except OSError as error:
        raise ModelError(
            f"cannot read the file: {error.strerror}", where=str(model), hint="check its name"
        ) from error
    states = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files[1:] if p.is_file()]
    text = msgspec.json.encode([__version__, content, states, how], order="deterministic")
    return digest(memoryview(text))


def _write(folder: Path, facts: dict[str, Any]) -> None:
    from whet.report.acceptance_page import acceptance_page

    output.write_text(folder / "acceptance.json", output.json_text(facts, SCHEMA) + "\n")
    output.write_text(folder / "acceptance.html", acceptance_page(facts))


def _print(console: Console, facts: dict[str, Any]) -> None:
    for problem in facts["results"]["assess"]["problems"]:
        console.print(
            f"unsupported  {problem['node']} ({problem['op']}): {problem['reason']}",
            markup=False,
            soft_wrap=True,
        )
    done = [name + (" (done before)" if name in facts["done_before"] else "") for name in STEPS
            if name in facts["results"]]  # fmt: skip
    console.print(f"steps: {', '.join(done)}", markup=False)
    tuned = facts["results"].get("tune")
    if tuned is not None:
        console.print(f"tune: {tuned['note']}", markup=False)
    rows = [(c["name"], c["target"], c["found"], "pass" if c["passed"] else "FAIL")
            for c in facts["criteria"]]  # fmt: skip
    console.print(output.table(("criterion", "target", "found", ""), rows))
    verdict = "accepted" if facts["accepted"] else "NOT accepted"
    console.print(f"{verdict}; wrote {facts['folder']}/acceptance.html", markup=False)

"""``whet report``: one page about a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from whet.cli import arrays, bench, output, profile
from whet.cli.graph_facts import read_graph_facts
from whet.cli.opening import is_compiled, open_model
from whet.cli.parameters import (
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)
from whet.errors import OptionError

SCHEMA = "whet.report.1"


@click.command("report")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target_file", type=click.Path(path_type=Path),
              help="The page; MODEL's name with .html if not given.")  # fmt: skip
@click.option("--against", default="", metavar="NAMES", help="Other runtimes: ort,openvino.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
@dim_option
@compiler_options
@json_option
def command(model: Path, target_file: Path | None, as_json: bool, **values: Any) -> None:
    """Optimise, compile, verify and measure the ONNX file MODEL, and write a page about it.

    Example: whet report m.onnx -o m.html --against ort
    """
    if is_compiled(model):
        raise OptionError("a report needs the ONNX file", where=str(model), hint="name m.onnx")
    destination = target_file or Path(f"{model.stem}.html")
    output.check_writable(destination)
    facts = _collect(model, values)
    from whet.report.model_page import model_page

    output.write_text(destination, model_page(facts))
    if as_json:
        output.print_json({**facts, "output": str(destination)}, schema=SCHEMA)
    else:
        output.stdout().print(f"wrote {destination}", markup=False)


def _collect(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Do everything that the page tells about; returns a JSON value."""
    from whet.measure.accuracy.graphs import read_proto
    from whet.measure.accuracy.reference import run_golden
    from whet.measure.accuracy.verify import passed, verify_outputs
    from whet.measure.machine import describe_machine
    from whet.optimize.optimize import optimize_graph

    shapes, options = read_options(values)
    optimized = optimize_graph(
        path, shapes=shapes, opt_level=options.opt_level, passes=options.passes
    )
    compiled = open_model(path, shapes, options)
    feeds = arrays.read_feeds(values["sources"], compiled.inputs, parse_dims(values["dims"]), 4)
    golden = run_golden(read_proto(path), feeds[0])
    outputs = verify_outputs(compiled.run(feeds[0]), golden)
    found = profile.measure_profile(compiled, feeds[0], 20)
    return {
        "model": str(path),
        "machine": msgspec.to_builtins(describe_machine()),
        "options": options.as_dict(),
        "graph": read_graph_facts(path).as_json(),
        "optimize": msgspec.to_builtins(optimized.report),
        "bench": bench.measure_model(compiled, path, feeds, values),
        "profile": profile.as_facts(found, path),
        "accuracy": {
            "reference": golden.source,
            "passed": passed(outputs),
            "outputs": msgspec.to_builtins(outputs),
        },
    }

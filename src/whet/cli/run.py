"""``whet run``: run a model once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from whet.cli import arrays, output
from whet.cli.opening import open_model
from whet.cli.parameters import (
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "sources",
    multiple=True,
    required=True,
    metavar="SOURCE",
    help="A .npy or .npz file, random, random:SEED, or NAME=SOURCE; may be repeated.",
)
@click.option(
    "--output", "target_file", type=click.Path(path_type=Path), help="Save outputs: .npz or .npy."
)
@dim_option
@compiler_options
@json_option
def command(
    model: Path,
    sources: tuple[str, ...],
    target_file: Path | None,
    dims: tuple[str, ...],
    as_json: bool,
    **compiler: Any,
) -> None:
    """Run MODEL, a .whet or an ONNX file, once.

    Example: whet run m.whet --input x.npy --output y.npz
    """
    values = parse_dims(dims)
    shapes, options = read_options(compiler)
    if target_file:
        output.check_writable(target_file)
    compiled = open_model(model, shapes, options)
    if target_file:
        arrays.check_suffix(target_file, len(compiled.outputs))
    inputs = arrays.read_inputs(sources, compiled.inputs, values)
    start = time.perf_counter()
    results = compiled.run(inputs)
    seconds = time.perf_counter() - start
    if target_file:
        arrays.write_arrays(target_file, results)
    facts = [arrays.describe_value(name, value) for name, value in results.items()]
    if as_json:
        saved = str(target_file) if target_file else None
        found = {"outputs": facts, "seconds": seconds, "saved": saved}
        output.print_json(found, schema="whet.run.1")
        return
    _print(facts, seconds, target_file)


def _print(facts: list[dict[str, Any]], seconds: float, saved: Path | None) -> None:
    """Print the outputs as a table."""
    headers = ("output", "type", "shape", "min", "mean", "max", "not finite")
    rows = [
        (
            fact["name"],
            fact["dtype"],
            output.format_shape(fact["shape"]),
            *(f"{fact[key]:.6g}" if key in fact else "" for key in ("min", "mean", "max")),
            str(fact.get("not_finite", "")),
        )
        for fact in facts
    ]
    console = output.stdout()
    console.print(output.table(headers, rows))
    console.print(f"first run: {output.format_ms(seconds)}")
    if saved:
        console.print(f"wrote {saved}", markup=False)

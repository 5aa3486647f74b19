"""``whet inspect``: what is inside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from whet.cli import output, report
from whet.cli.graph_facts import GraphFacts, read_graph_facts
from whet.cli.opening import is_compiled, open_model
from whet.cli.parameters import compiler_options, json_option, read_options


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--compile", "compiled", is_flag=True, help="Compile an ONNX file and show both.")
@compiler_options
@json_option
def command(model: Path, compiled: bool, as_json: bool, **compiler: Any) -> None:
    """Show inputs, outputs, operators, sizes and fused groups of MODEL, an ONNX or .whet file."""
    facts: dict[str, Any] = {"file": str(model), "file_bytes": None}
    console = output.stdout()
    if not is_compiled(model):
        graph = read_graph_facts(model)
        facts |= {"graph": graph.as_json()}
        if not as_json:
            print_graph(console, graph)
    if is_compiled(model) or compiled:
        opened = open_model(model, *read_options(compiler), foreign=True)
        facts |= {"compiled": report.model_as_json(opened)}
        if not as_json:
            report.print_model(console, opened)
            report.print_origin(console, opened.metadata)
            console.print()
            report.print_groups(console, opened.stats.groups)
            report.print_placement(console, opened.program)
    if as_json:
        facts |= {"file_bytes": model.stat().st_size}
        output.print_json(facts, schema="whet.inspect.1")


def print_graph(console: Console, graph: GraphFacts) -> None:
    """Print the figures of an ONNX model."""
    report.print_specs(console, graph.inputs, graph.outputs)
    opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in graph.opsets.items())
    flops = f"{graph.flops / 1e9:.3f} GFLOP in convolutions and matrix products"
    if graph.unknown_flops:
        flops += f", {graph.unknown_flops} of unknown shape left out"
    figures = {
        "opsets": opsets,
        "nodes": str(graph.nodes),
        "parameters": f"{graph.parameters:,} ({output.format_bytes(graph.weight_bytes)})",
        "work": flops,
    }
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", markup=False)
    console.print(output.table(("operator", "nodes"), ((o, str(n)) for o, n in graph.ops.items())))

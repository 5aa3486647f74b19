"""``whet inspect``: what is inside a model."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from whet.cli import output, report
from whet.cli.graph_facts import GraphFacts, read_graph_facts
from whet.cli.opening import CompiledModel, is_compiled, open_model
from whet.cli.parameters import compiler_options, dim_option, json_option, read_options
from whet.errors import OptionError


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--compile", "compiled", is_flag=True, help="Compile an ONNX file and show both.")
@click.option(
    "--nodes", is_flag=True, help="Compile an ONNX file and show what became of each node."
)
@click.option("--view", is_flag=True, help="Write a page of nodes beside launches, and open it.")
@click.option("-o", "--output", "page", type=click.Path(path_type=Path),
              help="Where the page goes; MODEL's name with .view.html if not given.")  # fmt: skip
@click.option("--measure/--no-measure", default=True, show_default=True,
              help="Whether the page has times and errors.")  # fmt: skip
@click.option("--browser/--no-browser", default=True, show_default=True,
              help="Whether to open the page.")  # fmt: skip
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="Inputs to measure with, as for whet run.")  # fmt: skip
@dim_option
@compiler_options
@json_option
def command(model: Path, compiled: bool, nodes: bool, as_json: bool, **compiler: Any) -> None:
    """Show inputs, outputs, operators, sizes and fused groups of MODEL, an ONNX or .whet file.

    Example: whet inspect m.onnx --nodes
    """
    if (nodes or compiler["view"]) and is_compiled(model):
        raise OptionError(
            "the nodes of the model are in its ONNX file", where=str(model), hint="name m.onnx"
        )
    if compiler["view"]:
        _view(model, compiler, as_json=as_json)
        return
    facts: dict[str, Any] = {"file": str(model), "file_bytes": None}
    console = output.stdout()
    if not is_compiled(model):
        graph = read_graph_facts(model)
        facts |= {"graph": graph.as_json()}
        if not as_json:
            print_graph(console, graph)
    if is_compiled(model) or compiled or nodes:
        opened = open_model(model, *read_options(compiler), foreign=True)
        facts |= {"compiled": report.model_as_json(opened)}
        if not as_json:
            report.print_model(console, opened)
            report.print_origin(console, opened.metadata)
            console.print()
            report.print_groups(console, opened.stats.groups)
            report.print_placement(console, opened.program)
        if nodes:
            facts |= {"nodes": _show_nodes(model, opened, None if as_json else console)}
    if as_json:
        facts |= {"file_bytes": model.stat().st_size}
        output.print_json(facts, schema="whet.inspect.1")


def _view(path: Path, values: dict[str, Any], *, as_json: bool) -> None:
    """Write the page, and open it if asked."""
    from whet.cli.view import write_view

    destination: Path = values["page"] or Path(f"{path.stem}.view.html")
    facts = write_view(path, destination, values)
    if as_json:
        output.print_json({**facts, "output": str(destination)}, schema="whet.view.1")
    else:
        output.stdout().print(f"wrote {destination}", markup=False)
    if values["browser"] and not webbrowser.open(destination.resolve().as_uri()):
        output.note(f"no browser was found; open {destination}")


def _show_nodes(path: Path, opened: CompiledModel, console: Console | None) -> list[dict[str, Any]]:
    """Find out what became of every node, and print it if asked."""
    from whet.measure.accuracy.graphs import read_proto
    from whet.measure.fates import trace_nodes

    fates = trace_nodes(read_proto(path), opened.program)
    if console is not None:
        rows = [
            (
                f"{fate.node} ({fate.op})",
                ", ".join(map(str, fate.launches)) or "none",
                ", ".join(fate.kernels) or "folded, merged or not needed",
                ", ".join(fate.with_nodes[:3]) + (", …" if len(fate.with_nodes) > 3 else ""),
            )
            for fate in fates
        ]
        console.print(output.table(("node", "launches", "kernel", "together with"), rows))
    found: list[dict[str, Any]] = msgspec.to_builtins(fates)
    return found


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

"""A compiled model as JSON and as tables; shared by the commands that show one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from whet.cli import output
from whet.cli.opening import CompiledModel
from whet.program.placement import Place, placements
from whet.program.records import FusedGroup, Program, Stats, TensorSpec


def specs_as_json(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """Return inputs or outputs as JSON values."""
    return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]


def stats_as_json(stats: Stats) -> dict[str, Any]:
    """Return what a model costs as a JSON value."""
    return {
        "target": stats.target,
        "threads": stats.threads,
        "launches": stats.launches,
        "arena_bytes": stats.arena_bytes,
        "weight_bytes": stats.weight_bytes,
        "code_bytes": stats.code_bytes,
        "programs": list(stats.programs),
        "compile_s": round(stats.compile_s, 3),
        "groups": [
            {"kernel": g.kernel, "ops": list(g.ops), "nodes": list(g.nodes)} for g in stats.groups
        ],
    }


def count_flops(model: CompiledModel) -> int:
    """Return the floating-point operations of one run, with open dimensions taken as 1."""
    ones = dict.fromkeys(model.program.dims, 1)
    return sum(launch.flops.evaluate(ones) for launch in model.program.launches)


def model_as_json(model: CompiledModel) -> dict[str, Any]:
    """Return a compiled model as a JSON value."""
    return {
        "flops": count_flops(model),
        "inputs": specs_as_json(model.inputs),
        "outputs": specs_as_json(model.outputs),
        "stats": stats_as_json(model.stats),
        "metadata": dict(model.metadata),
        "placement": [
            {"place": str(p.place), "ops": list(p.ops), "nodes": list(p.nodes)}
            for p in placements(model.program)
        ],
    }


def print_specs(
    console: Console, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> None:
    """Print inputs and outputs, one a line."""
    for kind, specs in (("input ", inputs), ("output", outputs)):
        for spec in specs:
            shape = output.format_shape(spec.shape)
            console.print(f"{kind}  {spec.name}: {spec.dtype} {shape}", markup=False)


def print_model(console: Console, model: CompiledModel) -> None:
    """Print what a model takes, gives and costs, one figure a line."""
    print_specs(console, model.inputs, model.outputs)
    stats = model.stats
    figures = {
        "target": stats.target,
        "threads": str(stats.threads),
        "kernel launches": str(stats.launches),
        "work": f"{count_flops(model) / 1e9:.3f} GFLOP",
        "weights": output.format_bytes(stats.weight_bytes),
        "intermediate results": output.format_bytes(stats.arena_bytes),
        "machine code": output.format_bytes(stats.code_bytes),
    }
    if len(stats.programs) > 1:
        figures["programs"] = "; ".join(stats.programs)
    if stats.compile_s:
        figures["compiled in"] = f"{stats.compile_s:.2f} s"
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", markup=False)


def print_origin(console: Console, metadata: Mapping[str, str]) -> None:
    """Print where a compiled file comes from, as the compiler noted it."""
    tools = [
        f"{tool} {metadata[tool]}" for tool in ("whet", "llvmlite", "onnx") if tool in metadata
    ]
    figures = {
        "made from": metadata.get("source", "a model in memory"),
        "made by": ", ".join(tools) or "unknown",
        "options": metadata.get("options", "unknown"),
    }
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", markup=False, soft_wrap=True)


def print_groups(console: Console, groups: Iterable[FusedGroup]) -> None:
    """Print what every launch computes, in the model's own node names."""
    console.print(f"{'kernel':<28}{'operators':<44}nodes", markup=False)
    for group in groups:
        ops, nodes = " + ".join(group.ops), ", ".join(group.nodes)
        console.print(f"{group.kernel:<28}{ops:<44}{nodes}", markup=False, soft_wrap=True)


def print_placement(console: Console, program: Program) -> None:
    """Print what runs in native code, in the script and on the host, if not all is native."""
    if program.script is None:
        return
    counts: dict[Place, dict[str, list[str]]] = {place: {} for place in Place}
    for row in placements(program):
        for op in row.ops:
            counts[row.place].setdefault(op, []).extend(row.nodes)
    rows = (
        (str(place), op, ", ".join(dict.fromkeys(nodes)))
        for place, ops in counts.items()
        for op, nodes in sorted(ops.items())
    )
    console.print(output.table(("runs in", "operator", "nodes"), rows))


def summarise_groups(groups: Iterable[FusedGroup]) -> list[tuple[str, int]]:
    """Count launches by the operators that they compute together, most frequent first."""
    counts: dict[str, int] = {}
    for group in groups:
        ops = " + ".join(group.ops)
        counts[ops] = counts.get(ops, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

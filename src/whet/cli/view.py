"""What ``whet inspect --view`` collects: nodes, launches, their times and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from whet.cli import arrays, output
from whet.cli.opening import CompiledModel, open_model
from whet.cli.parameters import parse_dims, read_options
from whet.cli.progress import ProgressBar
from whet.program.records import BufferKind, Program

if TYPE_CHECKING:
    import onnx

Facts = dict[str, Any]
_RUNS = 20


def write_view(path: Path, destination: Path, values: Mapping[str, Any]) -> Facts:
    """Compile, measure and verify a model, and write the page; returns what is on it.

    Args:
        path: the ONNX file.
        destination: the page.
        values: options of the command: ``measure``, ``sources``, ``dims`` and the compiler's.
    """
    from whet.measure.accuracy.graphs import read_proto
    from whet.report.view_page import view_page

    output.check_writable(destination)
    shapes, options = read_options(values)
    compiled, proto = open_model(path, shapes, options), read_proto(path)
    facts: Facts = {
        "model": path.name,
        "target": f"made for {compiled.program.target.cpu}",
        "times": None,
        "reference": None,
        "nodes": _nodes(proto, compiled.program),
        "launches": _launches(compiled.program),
    }
    if values["measure"]:
        feeds = arrays.read_inputs(values["sources"], compiled.inputs, parse_dims(values["dims"]))
        _add_times(facts, compiled, feeds)
        _add_errors(facts, proto, feeds, values)
    output.write_text(destination, view_page(facts))
    return facts


def _nodes(proto: onnx.ModelProto, program: Program) -> list[Facts]:
    from whet.measure.accuracy.graphs import constant_names, values_read
    from whet.measure.fates import trace_nodes

    constants, kinds = constant_names(proto), _kinds(proto)
    return [
        {
            "name": fate.node,
            "op": fate.op,
            "reads": [name for name in values_read(node) if name not in constants],
            "writes": [name for name in node.output if name],
            "outputs": [(name, kinds.get(name, "unknown")) for name in node.output if name],
            "launches": list(fate.launches),
            "errors": [],
        }
        for node, fate in zip(proto.graph.node, trace_nodes(proto, program), strict=True)
    ]


def _kinds(proto: onnx.ModelProto) -> dict[str, str]:
    """Return element type and shape of every value, as far as inference finds them."""
    import onnx

    from whet.errors import WhetError
    from whet.frontend.load import load_model
    from whet.graph.text import type_text

    # The loader guards against what crashes the inference of the onnx package.
    try:
        model = load_model(proto)
    except WhetError:
        return {}
    values = [v for node in model.graph for v in node.outputs]
    known = {v.name or "": type_text(v) for v in values}
    constant = onnx.TensorProto.DataType.Name
    return {**{t.name: constant(t.data_type) for t in proto.graph.initializer}, **known}


def _launches(program: Program) -> list[Facts]:
    outside = (BufferKind.CONSTANT, BufferKind.INPUT)
    rows = []
    for index, launch in enumerate(program.launches):
        buffers = [(p, a, program.buffers[a]) for p, a in enumerate(launch.args)]
        rows.append(
            {
                "index": index,
                "kernel": launch.kernel,
                "ops": list(launch.ops),
                "nodes": list(launch.nodes),
                "reads": [f"{a} {b.name}" for p, a, b in buffers
                          if p not in launch.writes and b.kind not in outside],
                "writes": [f"{a} {b.name}" for p, a, b in buffers if p in launch.writes],
                "span_us": None,
            }
        )  # fmt: skip
    return rows


def _add_times(facts: Facts, compiled: CompiledModel, feeds: Mapping[str, Any]) -> None:
    from whet.cli.profile import measure_profile

    found = measure_profile(compiled, feeds, _RUNS)
    facts["times"] = {"plain_us": found.times.plain_us, "threads": found.times.threads}
    for row, launch, rate in zip(
        facts["launches"], found.times.launches, found.roofline.rates, strict=True
    ):
        row["span_us"], row["share"] = launch.span_us, launch.share
        row |= {"gflops": rate.gflops, "gbytes": rate.gbytes}
        row["bound"] = str(msgspec.to_builtins(rate.bound))


def _add_errors(
    facts: Facts, proto: onnx.ModelProto, feeds: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    from whet.measure.accuracy.layers import verify_layers
    from whet.measure.accuracy.recipe import Recipe

    shapes, options = read_options(values)
    with ProgressBar() as progress:
        found = verify_layers(proto, feeds, recipe=Recipe(options, shapes), progress=progress)
    by_value = {name: row for row in facts["nodes"] for name in row["writes"]}
    facts["reference"] = found.reference
    for layer in found.layers:
        level = "wrong" if layer.own_breaches else "off" if layer.breaches else "ok"
        by_value[layer.value]["errors"].append(
            {
                "value": layer.value,
                "place": str(msgspec.to_builtins(layer.place)),
                "own": None if layer.own is None else layer.own.max_scaled,
                "accumulated": None if layer.accumulated is None else layer.accumulated.max_scaled,
                "level": level,
            }
        )

"""The page of ``whet report``: a model from what it is to what would make it faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.report.charts import bar_chart, roofline_chart, step_chart
from whet.report.page import Section, render_page

_BARS = 20


def model_page(facts: Mapping[str, Any]) -> str:
    """Return the page of a model, from the JSON value of ``whet report``."""
    machine, bench, profile = facts["machine"], facts["bench"], facts["profile"]
    ours, memory = bench["times"]["whet"], profile["memory"]
    figures = [
        (f"latency, {calls_of(ours)}", f"{ours['block_ms']:.2f} ms"),
        ("latency, best", f"{ours['best_ms']:.2f} ms"),
        ("kernel launches", str(len(profile["times"]["launches"]))),
        ("intermediate results", _mib(memory["arena_bytes"])),
        ("weights", _mib(bench["costs"]["weight_bytes"])),
        ("accuracy", "passed" if facts["accuracy"]["passed"] else "FAILED"),
    ]
    subtitle = f"{machine['cpu']}, {bench['threads']} threads, machine {bench['noise']}"
    sections = [
        _model(facts["graph"]),
        _passes(facts["optimize"]),
        _latency(bench),
        _launches(profile),
        _roofline(profile),
        _memory(memory),
        _accuracy(facts["accuracy"]),
        _advice(profile["findings"]),
        _placement(profile["times"]["launches"]),
        _environment(machine, facts),
    ]
    return render_page(str(facts["model"]), subtitle, figures, sections)


def _model(graph: Mapping[str, Any]) -> Section:
    specs = [f"{s['name']}: {s['dtype']} {'×'.join(map(str, s['shape']))}" for s in graph["inputs"]]
    outputs = [
        f"{s['name']}: {s['dtype']} {'×'.join(map(str, s['shape']))}" for s in graph["outputs"]
    ]
    text = (
        f"{graph['nodes']} nodes, {graph['parameters']:,} parameters "
        f"({_mib(graph['weight_bytes'])}), {graph['flops'] / 1e9:.3f} GFLOP in convolutions and "
        "matrix products."
    )
    rows = tuple((op, str(count)) for op, count in graph["ops"].items())
    texts = (text, f"Inputs: {', '.join(specs)}.", f"Outputs: {', '.join(outputs)}.")
    return Section("The model", texts=texts, headers=("operator", "nodes"), rows=rows, folded=True)


def _passes(report: Mapping[str, Any]) -> Section:
    rows = tuple(
        (p["name"], str(p["rewrites"]), str(p["nodes_saved"]), f"{p['bytes_saved'] / 1e6:.2f}",
         f"{p['seconds'] * 1e3:.1f}") for p in report["passes"] if p["rewrites"]
    )  # fmt: skip
    before, after = report["before"], report["after"]
    text = f"{before['nodes']} nodes became {after['nodes']} before fusion."
    headers = ("pass", "rewrites", "nodes saved", "MB saved", "ms")
    return Section("What was done to the graph", texts=(text,), headers=headers, rows=rows)


def _latency(bench: Mapping[str, Any]) -> Section:
    rows = tuple(
        (name, *(f"{t[key]:.2f}" for key in
                 ("block_ms", "best_ms", "mean_ms", "median_ms", "p90_ms", "p99_ms", "max_ms")))
        for name, t in bench["times"].items()
    )  # fmt: skip
    texts = tuple(
        f"{c['peer']} takes {c['block_ratio']:.2f} times as long (95 % interval "
        f"{c['block_interval'][0]:.2f} to {c['block_interval'][1]:.2f}): {c['verdict']}."
        for c in bench["comparisons"]
    )
    bars = [(name, t["block_ms"], name) for name, t in bench["times"].items()]
    headers = (
        "runtime",
        f"{calls_of(bench['times']['whet'])} ms",
        "min ms",
        "mean ms",
        "median ms",
        "p90 ms",
        "p99 ms",
        "max ms",
    )
    return Section(
        "Latency", texts=texts, chart=bar_chart(bars, unit="ms"), headers=headers, rows=rows
    )


def _launches(profile: Mapping[str, Any]) -> Section:
    launches = sorted(profile["times"]["launches"], key=lambda x: -x["span_us"])[:_BARS]
    bars = [("+".join(x["ops"]), x["span_us"], ", ".join(x["nodes"])) for x in launches]
    text = f"Launches cover {profile['times']['covered']:.0%} of a run; the longest:"
    return Section("Where the time goes", texts=(text,), chart=bar_chart(bars, unit="us"))


def _roofline(profile: Mapping[str, Any]) -> Section:
    limits = profile["roofline"]["limits"]
    launches = profile["times"]["launches"]
    points = [
        ("+".join(launches[r["index"]]["ops"]), r["intensity"], r["gflops"],
         launches[r["index"]]["share"]) for r in profile["roofline"]["rates"]
    ]  # fmt: skip
    chart = roofline_chart(points, gflops=limits["gflops"], gbytes=limits["read_gbytes"])
    text = (
        f"Measured limits: {limits['gflops']:.0f} GFLOP/s and {limits['read_gbytes']:.1f} GB/s. "
        "A dot is a launch, its size the time it takes; above the roof, caches serve the bytes or "
        "Winograd convolution saves multiplications."
    )
    return Section("Roofline", texts=(text,), chart=chart)


def _memory(memory: Mapping[str, Any]) -> Section:
    values = [step["live_bytes"] / 2**20 for step in memory["steps"]]
    held = {b["buffer"]: b for b in memory["buffers"]}
    rows = tuple(
        (held[n]["name"], _mib(held[n]["bytes"]), f"{held[n]['first']} to {held[n]['last']}")
        for n in memory["at_peak"][:_BARS]
    )
    text = (
        f"Arena {_mib(memory['arena_bytes'])}; without sharing it would be "
        f"{_mib(memory['temporary_bytes'])}. At the peak, launch {memory['peak_launch']}:"
    )
    chart = step_chart(values, limit=memory["arena_bytes"] / 2**20, unit="MiB arena")
    headers = ("value", "size", "launches")
    return Section("Memory over a run", texts=(text,), chart=chart, headers=headers, rows=rows)


def _accuracy(accuracy: Mapping[str, Any]) -> Section:
    rows = tuple(
        (o["name"], o["metrics"]["dtype"],
         *(f"{o['metrics'][k]:.3g}" for k in
           ("cosine", "max_abs", "max_scaled", "relative_euclidean")),
         "FAILED" if o["breaches"] else "ok") for o in accuracy["outputs"]
    )  # fmt: skip
    headers = ("output", "type", "cosine", "max abs", "max scaled", "relative euclidean", "")
    text = f"Against {accuracy['reference']}, on random inputs."
    return Section("Accuracy", texts=(text,), headers=headers, rows=rows)


def _advice(findings: list[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (f["message"], f["severity"], f"{f['saves_us']:.0f}", f["remedy"]) for f in findings
    )
    texts = () if rows else ("Nothing stands out.",)
    headers = ("finding", "weight", "saves up to us", "what to do")
    return Section("What would help", texts=texts, headers=headers, rows=rows)


def _placement(launches: list[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (str(x["index"]), x["kernel"], "+".join(x["ops"]), f"{x['span_us']:.1f}",
         ", ".join(x["nodes"])) for x in launches
    )  # fmt: skip
    headers = ("launch", "kernel", "operators", "us", "nodes")
    text = "Everything runs in generated native code; this is what each launch computes."
    return Section("Placement", texts=(text,), headers=headers, rows=rows, folded=True)


def _environment(machine: Mapping[str, Any], facts: Mapping[str, Any]) -> Section:
    known = {**machine, "options": facts["options"]}
    versions = known.pop("versions")
    rows = tuple((name, str(value)) for name, value in {**known, **versions}.items())
    return Section("Environment", headers=("what", "value"), rows=rows, folded=True)


def calls_of(times: Mapping[str, Any]) -> str:
    """Return which calls ``block_ms`` is the median of."""
    return f"shortest of {times['block']}" if times["block"] > 1 else "median"


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"

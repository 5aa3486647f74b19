"""The page of ``whet report``: a model from what it is to what would make it faster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from whet.report.charts import bar_chart, roofline_chart, step_chart
from whet.report.page import Section, Summary, render_page
from whet.words import counted

_BARS = 20
_NAME, _OPS = 16, 14
_NAMES = {"whet": "Whet", "ort": "ONNX Runtime", "openvino": "OpenVINO"}


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
    subtitle = f"{machine['cpu']}, {counted(bench['threads'], 'thread')}, machine {bench['noise']}"
    sections = [
        _latency(bench),
        _accuracy(facts["accuracy"]),
        _launches(profile),
        _advice(profile["findings"]),
        _roofline(profile),
        _memory(memory),
        _model(facts["graph"]),
        _passes(facts["optimize"], len(profile["times"]["launches"])),
        _placement(profile["times"]["launches"]),
        _environment(machine, facts),
    ]
    title = PurePath(str(facts["model"])).name
    return render_page(title, subtitle, figures, sections, _summary(facts))


def _summary(facts: Mapping[str, Any]) -> Summary:
    bench, accuracy = facts["bench"], facts["accuracy"]
    ms = bench["times"]["whet"]["block_ms"]
    lead = [f"One run takes {ms:.2f} ms, {1e3 / ms:.1f} a second."]
    lead += [f"{_against(c)}." for c in bench["comparisons"]]
    agrees = "agree with" if accuracy["passed"] else "DIFFER from"
    lead.append(f"The results {agrees} those of {accuracy['reference']}.")
    caution = ""
    if bench["noise"] == "noisy":
        caution = "The machine was busy with other work meanwhile: trust the ratios, not the times."
    return Summary((" ".join(lead),), caution)


def _against(comparison: Mapping[str, Any]) -> str:
    """Say how another runtime compares with Whet."""
    name, ratio = runtime_name(comparison["peer"]), comparison["block_ratio"]
    if comparison["verdict"] == "no significant difference":
        return f"{name} takes about as long"
    return f"{name} takes {ratio:.2f} times as long"


def _model(graph: Mapping[str, Any]) -> Section:
    specs = [f"{s['name']}: {s['dtype']} {'×'.join(map(str, s['shape']))}" for s in graph["inputs"]]
    outputs = [
        f"{s['name']}: {s['dtype']} {'×'.join(map(str, s['shape']))}" for s in graph["outputs"]
    ]
    text = (
        f"{counted(graph['nodes'], 'node')}, {graph['parameters']:,} parameters "
        f"({_mib(graph['weight_bytes'])}), {graph['flops'] / 1e9:.3f} GFLOP in convolutions and "
        "matrix products."
    )
    rows = tuple((op, str(count)) for op, count in graph["ops"].items())
    texts = (text, f"Inputs: {', '.join(specs)}.", f"Outputs: {', '.join(outputs)}.")
    return Section("The model", texts=texts, headers=("operator", "nodes"), rows=rows, folded=True)


def _passes(report: Mapping[str, Any], launches: int) -> Section:
    rows = tuple(
        (p["name"], str(p["rewrites"]), str(p["nodes_saved"]), f"{p['bytes_saved'] / 1e6:.2f}",
         f"{p['seconds'] * 1e3:.1f}") for p in report["passes"] if p["rewrites"]
    )  # fmt: skip
    before, after = report["before"], report["after"]
    text = (
        f"{counted(before['nodes'], 'node')} became {after['nodes']}, which run as "
        f"{counted(launches, 'launch', 'launches')}."
    )
    headers = ("pass", "rewrites", "nodes saved", "MB saved", "ms")
    return Section("What was done to the graph", texts=(text,), headers=headers, rows=rows)


def _latency(bench: Mapping[str, Any]) -> Section:
    rows = tuple(
        (runtime_name(name), *(f"{t[key]:.2f}" for key in
                 ("block_ms", "best_ms", "mean_ms", "median_ms", "p90_ms", "p99_ms", "max_ms")))
        for name, t in bench["times"].items()
    )  # fmt: skip
    texts = tuple(
        f"{_against(c)} (95 % interval of the ratio {c['block_interval'][0]:.2f} to "
        f"{c['block_interval'][1]:.2f}, calls in turn)."
        for c in bench["comparisons"]
    )
    bars = [(runtime_name(n), t["block_ms"], n) for n, t in bench["times"].items()]
    others = frozenset(runtime_name(name) for name in bench["times"] if name != "whet")
    chart = bar_chart(bars, unit="ms", others=others)
    kinds = (calls_of(bench["times"]["whet"]), "min", "mean", "median", "p90", "p99", "max")
    headers = ("runtime", *(f"{kind} ms" for kind in kinds))
    return Section("Latency", texts=texts, chart=chart, headers=headers, rows=rows)


def _launches(profile: Mapping[str, Any]) -> Section:
    launches = sorted(profile["times"]["launches"], key=lambda x: -x["span_us"])[:_BARS]
    bars = [(_named(x), x["span_us"], ", ".join(x["nodes"])) for x in launches]
    few = launches[:3]
    text = (
        f"{sum(x['share'] for x in few):.0%} of the time is in the longest {len(few)} of "
        f"{counted(len(profile['times']['launches']), 'launch', 'launches')}; launches cover "
        f"{profile['times']['covered']:.0%} of a run."
    )
    return Section("Where the time goes", texts=(text,), chart=bar_chart(bars, unit="us"))


def _named(launch: Mapping[str, Any]) -> str:
    """Return operators of a launch, and begin and end of its first node's name."""
    node = launch["nodes"][0] if launch["nodes"] else launch["kernel"]
    ops = "+".join(launch["ops"])
    short = node if len(node) <= _NAME else f"{node[: _NAME // 2]}…{node[1 - _NAME // 2 :]}"
    return f"{ops if len(ops) <= _OPS else ops[: _OPS - 1] + '…'} {short}"


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


def runtime_name(name: str) -> str:
    """Return what a runtime is called in texts; a file is its name."""
    return _NAMES.get(name, PurePath(name).name)


def calls_of(times: Mapping[str, Any]) -> str:
    """Return which calls ``block_ms`` is the median of."""
    return f"shortest of {times['block']}" if times["block"] > 1 else "median"


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"

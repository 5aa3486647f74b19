"""The page of ``whet migrate``: what was asked, what was found, accepted or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from whet.report.charts import bar_chart
from whet.report.model_page import calls_of
from whet.report.page import Section, Summary, render_page
from whet.words import counted


def acceptance_page(facts: Mapping[str, Any]) -> str:
    """Return the page of a migration, from the JSON value that the command prints."""
    results = facts["results"]
    figures = [("verdict", "accepted" if facts["accepted"] else "NOT accepted")]
    if "compile" in results:
        figures.append(("launches", str(results["compile"]["launches"])))
    if "bench" in results:
        ours = results["bench"]["times"]["whet"]
        figures.append(("latency, median", f"{ours['median_ms']:.2f} ms"))
    rows = tuple(
        (c["name"], c["target"], c["found"], "pass" if c["passed"] else "FAIL")
        for c in facts["criteria"]
    )
    headers = ("criterion", "target", "found", "verdict")
    sections = [
        Section("Acceptance", headers=headers, rows=rows),
        _assess(results["assess"]),
        *([_compiled(results["compile"])] if "compile" in results else []),
        *([_accuracy(results["verify"])] if "verify" in results else []),
        *([Section("Tuning", texts=(str(results["tune"]["note"]),))] if "tune" in results else []),
        *([_latency(results["bench"])] if "bench" in results else []),
    ]
    missed = [c["name"] for c in facts["criteria"] if not c["passed"]]
    lead = f"All {len(rows)} criteria are met."
    if missed:
        lead = f"{len(missed)} of {len(rows)} criteria are missed: {', '.join(missed)}."
    caution = ""
    if results.get("bench", {}).get("noise") == "noisy":
        caution = "The machine was busy with other work meanwhile: trust the ratios, not the times."
    title = f"Migration of {PurePath(str(facts['model'])).name}"
    return render_page(title, _subtitle(results), figures, sections, Summary((lead,), caution))


def _subtitle(results: Mapping[str, Any]) -> str:
    if "bench" not in results:
        return "The model goes no further: it has nodes that are not supported."
    bench = results["bench"]
    return (
        f"{bench['machine']['cpu']}, {counted(bench['threads'], 'thread')}, "
        f"machine {bench['noise']}"
    )


def _assess(assess: Mapping[str, Any]) -> Section:
    if assess["problems"]:
        rows = tuple((p["node"], p["op"], p["reason"]) for p in assess["problems"])
        return Section("Not supported", headers=("node", "operator", "reason"), rows=rows)
    text = ", ".join(f"{count} {place}" for place, count in assess["places"].items())
    texts = (f"Runs as {text}; {assess['flops'] / 1e9:.3f} GFLOP.", *assess["caveats"])
    counts = tuple((ops, str(count)) for ops, count in assess["ops"].items())
    headers = ("operators of a kernel", "launches")
    return Section("Assessment", texts=texts, headers=headers, rows=counts, folded=True)


def _compiled(compiled: Mapping[str, Any]) -> Section:
    names = ("file_bytes", "weight_bytes", "arena_bytes")
    rows = tuple((name.replace("_", " "), f"{compiled[name] / 2**20:.2f} MiB") for name in names)
    text = f"{compiled['file']}, compiled in {compiled['compile_s']:.2f} s."
    return Section("Compilation", texts=(text,), headers=("what", "size"), rows=rows)


def _accuracy(verify: Mapping[str, Any]) -> Section:
    names = ("cosine", "max_abs", "mean_relative", "rmse", "kl")
    rows = tuple(
        (o["name"], *("–" if o["metrics"][n] is None else f"{o['metrics'][n]:.3g}" for n in names),
         "FAILED" if o["breaches"] else "ok") for o in verify["outputs"]
    )  # fmt: skip
    headers = ("output", *(name.replace("_", " ") for name in names), "")
    text = f"Against {verify['reference']}; a row for each output of each input."
    return Section("Accuracy", texts=(text,), headers=headers, rows=rows)


def _latency(bench: Mapping[str, Any]) -> Section:
    bars = [(name, t["block_ms"], name) for name, t in bench["times"].items()]
    texts = tuple(
        f"{c['peer']} takes {c['block_ratio']:.2f} times as long: {c['verdict']}."
        for c in bench["comparisons"]
    )
    title = f"Latency, {calls_of(bench['times']['whet'])}"
    return Section(title, texts=texts, chart=bar_chart(bars, unit="ms"))

"""The page of ``whet llm ablate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.report.charts import bar_chart
from whet.report.page import Section, Summary, render_page
from whet.words import counted

_CHARTS = (
    ("Latency of one request", "latency_ms", 1.0, "ms"),
    ("Throughput", "throughput", 1.0, "tokens/s"),
    ("Memory", "memory_bytes", 2.0**-20, "MiB"),
)


def ablation_page(facts: Mapping[str, Any]) -> str:
    """Return the page of an ablation, from the JSON value that the command prints."""
    rows, load = facts["rows"], facts["load"]
    first, last = rows[0], rows[-1]
    figures = [
        ("latency", _change(first["latency_ms"], last["latency_ms"])),
        ("throughput", f"{last['throughput'] / first['throughput']:.1f} ×"),
        ("memory", _change(first["memory_bytes"], last["memory_bytes"])),
    ]
    sections = [
        Section(
            title,
            chart=bar_chart(
                [(r["name"], r[key] * factor, str(r["switches"])) for r in rows], unit=unit
            ),
        )
        for title, key, factor, unit in _CHARTS
    ]
    headers = ("variant", "latency ms", "tokens/s", "memory MiB", "same tokens")
    lines = tuple(
        (r["name"], f"{r['latency_ms']:.1f}", f"{r['throughput']:.1f}",
         f"{r['memory_bytes'] / 2**20:.1f}", f"{r['same_tokens']:.1%}") for r in rows
    )  # fmt: skip
    how = (
        f"Prompts of {load['prompt_tokens']} random tokens, {load['new_tokens']} new ones; "
        f"throughput with {counted(load['requests'], 'request')} at once; "
        f"medians of {counted(load['rounds'], 'round')}, in which the variants take turns."
    )
    sections.append(Section("Numbers", texts=(how,), headers=headers, rows=lines))
    title, model = "What each optimisation brings", str(facts["model"])
    return render_page(title, model, figures, sections, Summary(lead=_lead(first, last)))


def _lead(first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words what all switches together bring, and what they change."""
    ratios = [last[key] / first[key] for key in ("latency_ms", "throughput", "memory_bytes")]
    brings = (
        f"With everything switched on a request takes {ratios[0]:.2f} of its time, "
        f"{ratios[1]:.1f} times as many tokens are written in a second, in {ratios[2]:.2f} of the "
        "memory."
    )
    if last["same_tokens"] == 1:
        return (brings, "The tokens are the same.")
    return (brings, f"{last['same_tokens']:.1%} of the tokens are the same.")


def _change(before: float, after: float) -> str:
    return f"{(after / before - 1) * 100:+.0f} %"

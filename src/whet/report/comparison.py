"""The page of ``whet compare``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from whet.report.charts import bar_chart
from whet.report.page import Section, Summary, render_page
from whet.words import counted

_BARS = 20


def comparison_page(facts: Mapping[str, Any]) -> str:
    """Return the page of a comparison, from the JSON value that the command prints."""
    turns = f"{counted(facts['rounds'], 'round')} of calls in turn" if facts["paired"] else ""
    how = "; ".join(filter(None, (turns, facts["note"])))
    figures = [
        ("verdict on B", str(facts["verdict"])),
        *_times(facts),
        ("latency", f"{facts['ratio'] - 1:+.1%}"),
        ("time of B ÷ A", f"{facts['ratio']:.4f}"),
        (f"{facts['confidence']:.0%} interval", f"{facts['low']:.4f} to {facts['high']:.4f}"),
        ("regression", "yes" if facts["regression"] else "no"),
    ]
    launches = facts["launches"]
    bars = [
        ("+".join(d["ops"]), abs(d["difference_us"]), ", ".join(d["nodes"]))
        for d in launches[:_BARS]
    ]
    rows = tuple(
        ("+".join(d["ops"]), _us(d["first_us"]), _us(d["second_us"]),
         f"{d['difference_us']:+.1f}", ", ".join(d["nodes"])) for d in launches
    )  # fmt: skip
    headers = ("launch", "A us", "B us", "difference us", "nodes")
    sections = [
        Section(
            "Launches that differ most",
            texts=("Absolute differences; the table has their signs.",),
            chart=bar_chart(bars, unit="us"),
            headers=headers,
            rows=rows,
        )
    ]
    names = [PurePath(str(facts[side])).name for side in "ab"]
    title = f"{names[0]} (A) and {names[1]} (B)"
    summary = Summary((_sentence(facts, names),))
    return render_page(title, how, figures, sections if launches else [], summary)


def _sentence(facts: Mapping[str, Any], names: list[str]) -> str:
    """Say in words how B compares with A, and how sure that is."""
    sure = f"with {facts['confidence']:.0%} confidence"
    if facts["verdict"] == "no significant difference":
        low, high = facts["low"] - 1, facts["high"] - 1
        return f"No significant difference: {low:+.1%} to {high:+.1%} in time, {sure}."
    change = abs(facts["ratio"] - 1)
    less = "less" if facts["verdict"] == "faster" else "more"
    return f"{names[1]} is {facts['verdict']}: it takes {change:.1%} {less} time, {sure}."


def _times(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    kinds = [("median of", facts["medians_ms"])]
    if facts["block"] > 1:
        kinds.insert(0, (f"shortest of {facts['block']} calls of", facts["blocks_ms"]))
    return [
        (f"{kind} {side}", f"{ms:.3f} ms")
        for kind, pair in kinds
        for side, ms in zip("AB", pair, strict=True)
    ]


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

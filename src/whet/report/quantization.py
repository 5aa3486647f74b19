"""The page of ``whet quantize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.report.charts import bar_chart
from whet.report.page import Section, render_page

_BARS = 30


def quantization_page(facts: Mapping[str, Any]) -> str:
    """Return the page of a quantised model, from the JSON value that the command prints."""
    target = facts["target"]
    saved = 1 - facts["bytes_after"] / max(facts["bytes_before"], 1)
    count = facts["converted"] if "converted" in facts else len(facts["quantized"])
    figures = [
        ("layers quantised", str(count)),
        ("layers in float", str(len(facts["floats"]))),
        ("weights smaller by", f"{saved:.0%}"),
    ]
    sections = []
    if target is not None:
        figures += [
            ("metric, float", f"{target['float_value']:.4f}"),
            ("metric, quantised", f"{target['value']:.4f}"),
            ("drop allowed", f"{target['max_drop']:.4%}"),
        ]
        sections = _target_sections(target)
    rows = tuple((s["name"], s["op"], s["why"]) for s in facts.get("skipped", ()))
    if rows:
        sections.append(
            Section("Products left alone", headers=("node", "operator", "why"), rows=rows)
        )
    return render_page(str(facts["model"]), f"wrote {facts['output']}", figures, sections)


def _target_sections(target: Mapping[str, Any]) -> list[Section]:
    ranking = target["ranking"]
    bars = [(r["name"], r["own_error"], f"{r['op']}, {r['choice']}") for r in ranking[:_BARS]]
    rows = tuple(
        (r["name"], r["op"], f"{r['own_error']:.3e}", f"{r['own_value']:.4f}", r["choice"])
        for r in ranking
    )
    trials = tuple(
        (t["step"], t["layer"], str(t["float_layers"]), f"{t['value']:.4f}", f"{t['drop']:+.4%}",
         "holds" if t["accepted"] else "fails") for t in target["trials"]
    )  # fmt: skip
    made = []
    if ranking:
        made.append(
            Section(
                "Sensitivity",
                texts=("Distance of the outputs with one layer alone quantised.",),
                chart=bar_chart(bars, unit=""),
                headers=("layer", "operator", "own error", "metric", "choice"),
                rows=rows,
            )
        )
    headers = ("step", "layer", "layers in float", "metric", "drop", "target")
    return [*made, Section("Variants that were judged", headers=headers, rows=trials)]

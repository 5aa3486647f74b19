"""The table of results: one line an architecture, one column an exporter."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from benchmarks.architectures.check import Check
from benchmarks.architectures.registry import ARCHITECTURES
from benchmarks.models.export import EXPORTERS

Results = dict[str, Check]

HEAD = """# Architectures

Small seeded models of `transformers`, exported with open dimensions, compiled once and compared
with PyTorch at three shapes each (`python -m benchmarks.architectures`). A number is the largest
difference as a part of the output's standard deviation.

"""


def read_results(folder: Path) -> Results:
    """Return the results of earlier runs."""
    path = folder / "architectures.json"
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else {}


def write_results(folder: Path, results: Results) -> None:
    """Write the results as JSON and as a table."""
    known = {k: v for k, v in results.items() if k.rsplit(".", 1)[0] in ARCHITECTURES}
    data = msgspec.json.format(msgspec.json.encode(known, order="sorted"), indent=1)
    _replace(folder / "architectures.json", data + b"\n")
    _replace(folder / "architectures.md", (HEAD + table(known)).encode())


def table(results: Results) -> str:
    """Return the results as a Markdown table."""
    lines = [f"| architecture | reads | {' | '.join(EXPORTERS)} |", "|---|---|---|---|"]
    passed = 0
    for name, architecture in ARCHITECTURES.items():
        cells = [results.get(f"{name}.{e}") for e in EXPORTERS]
        if not any(cells):
            continue
        passed += all(c is not None and c.failure is None for c in cells)
        texts = " | ".join(_cell(c) for c in cells)
        lines.append(f"| {name} | {architecture.modality} | {texts} |")
    return f"{passed} agree with both exporters.\n\n" + "\n".join(lines) + "\n"


def _cell(outcome: Check | None) -> str:
    if outcome is None:
        return "not run"
    if outcome.failure is None:
        return f"{outcome.worst:.0e}"
    reason = "".join(c for c in outcome.failure.reason if c.isprintable()).replace("|", "/")
    return f"{outcome.failure.stage}: {reason[:120]}"


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f"{path.suffix}.partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)

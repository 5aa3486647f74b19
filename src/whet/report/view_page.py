"""The page of ``whet inspect --view``: the model's nodes beside the launches that compute them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from whet.report.lanes import ROW_PX, Step, draw_lanes
from whet.words import counted


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a list.

    Attributes:
        key: its element's name in the page.
        title: what it does.
        name: what it is called.
        note: a short text on the right.
        level: how the note is coloured: ``""``, ``"ok"``, ``"off"`` or ``"wrong"``.
        share: length of its bar, from 0 to 1.
        peers: rows of the other list that belong to it.
        details: names and texts, shown when the row is chosen.
    """

    key: str
    title: str
    name: str
    note: str
    level: str
    share: float
    peers: tuple[str, ...]
    details: tuple[tuple[str, str], ...]


def view_page(facts: Mapping[str, Any]) -> str:
    """Return the page, from the JSON value of the command.

    Nothing is loaded: the one script is inside, and the page allows no other, by its hash.
    """
    script = files("whet.report").joinpath("templates", "view.js").read_text(encoding="utf-8")
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("whet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    nodes, launches = facts["nodes"], facts["launches"]
    return environment.get_template("view.html.j2").render(
        title=facts["model"],
        subtitle=_subtitle(facts),
        row_px=ROW_PX,
        script=Markup(script),
        script_hash=code,
        panes=[
            ("model", f"{counted(len(nodes), 'node')} as exported", _lanes(nodes),
             _node_lines(facts)),
            ("program", f"{counted(len(launches), 'launch', 'launches')} as compiled",
             _lanes(launches), _launch_lines(facts)),
        ],
    )  # fmt: skip


def _subtitle(facts: Mapping[str, Any]) -> str:
    parts = [facts["target"]]
    if facts["times"]:
        times = facts["times"]
        parts.append(
            f"a run takes {times['plain_us'] / 1e3:.3f} ms with "
            f"{counted(times['threads'], 'thread')}"
        )
    if facts["reference"]:
        parts.append(f"errors against {facts['reference']}, relative to the largest element")
    return "; ".join(parts)


def _lanes(rows: Sequence[Mapping[str, Any]]) -> Markup:
    return draw_lanes([Step(tuple(r["reads"]), tuple(r["writes"])) for r in rows])


def _node_lines(facts: Mapping[str, Any]) -> list[Line]:
    return [_node_line(number, node, facts) for number, node in enumerate(facts["nodes"])]


def _node_line(number: int, node: Mapping[str, Any], facts: Mapping[str, Any]) -> Line:
    launches, errors = node["launches"], node["errors"]
    known = [e for e in errors if e["own"] is not None or e["accumulated"] is not None]
    worst = max((e["own"] if e["own"] is not None else e["accumulated"] for e in known), default=0)
    level = max((e["level"] for e in known), key=("ok", "off", "wrong").index, default="")
    gone = "folded, merged or not needed"
    fused = f"launch {', '.join(map(str, launches))}" if launches else gone
    details = [("operator", node["op"]), ("name", node["name"]), ("computed by", fused)]
    details += [("output", f"{name}: {kind}") for name, kind in node["outputs"]]
    details += [
        ("error", f"{e['value']}: own {_number(e['own'])}, accumulated "
         f"{_number(e['accumulated'])}, read from {e['place']}") for e in errors
    ]  # fmt: skip
    details += [("time", t) for t in _times(launches, facts)]
    return Line(
        key=f"n{number}",
        title=node["op"],
        name=node["name"],
        note=_error(worst) if known else "" if launches else "gone",
        level=level,
        share=0.0,
        peers=tuple(f"l{index}" for index in launches),
        details=tuple(details),
    )


def _times(launches: Sequence[int], facts: Mapping[str, Any]) -> list[str]:
    if not facts["times"]:
        return []
    return [
        f"{facts['launches'][k]['span_us']:.1f} us for all nodes of the launch" for k in launches
    ]


def _error(value: float) -> str:
    return f"{value:.0e}" if value else "exact"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2e}"


def _launch_lines(facts: Mapping[str, Any]) -> list[Line]:
    owners: dict[int, list[str]] = {}
    for number, node in enumerate(facts["nodes"]):
        for index in node["launches"]:
            owners.setdefault(index, []).append(f"n{number}")
    launches = facts["launches"]
    longest = max((x["span_us"] or 0.0 for x in launches), default=0.0) or 1.0
    return [
        _launch_line(x, (x["span_us"] or 0.0) / longest, tuple(owners.get(x["index"], ())))
        for x in launches
    ]


def _launch_line(launch: Mapping[str, Any], share: float, peers: tuple[str, ...]) -> Line:
    details = [
        ("kernel", launch["kernel"]),
        ("nodes", ", ".join(launch["nodes"])),
        ("writes", ", ".join(launch["writes"])),
    ]
    if launch["span_us"] is not None:
        details += [
            ("time", f"{launch['span_us']:.1f} us, {launch['share']:.1%} of all"),
            ("rate", f"{launch['gflops']:.1f} GFLOP/s, {launch['gbytes']:.1f} GB/s"),
            ("bound by", launch["bound"]),
        ]
    return Line(
        key=f"l{launch['index']}",
        title=" + ".join(dict.fromkeys(launch["ops"])) or "copy",
        name=launch["kernel"],
        note="" if launch["span_us"] is None else f"{launch['span_us']:.1f} us",
        level="",
        share=share,
        peers=peers,
        details=tuple(details),
    )

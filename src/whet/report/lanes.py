"""The flow of data beside a list of steps, as lines in lanes: one row a step, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

ROW_PX = 34
_WIDEST_PX, _LANE_PX, _DOT_PX = 150, 14, 5
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One row.

    Attributes:
        reads: values that it takes; those that no step writes come from outside.
        writes: values that it gives.
        kept: which of them are needed after the last step.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Where the lines of one row run.

    Attributes:
        lane: of the step itself.
        passing: lanes of values that go past it.
        entering: lanes of values that it takes.
        leaving: lanes of values that it gives.
    """

    lane: int
    passing: tuple[int, ...]
    entering: tuple[int, ...]
    leaving: tuple[int, ...]


def place_lanes(steps: Sequence[Step]) -> list[Row]:
    """Give every value a lane from the step that writes it to the last one that reads it."""
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        last.update(dict.fromkeys(step.reads, number))
    live: dict[str, int] = {}
    rows = []
    for number, step in enumerate(steps):
        entering = tuple(dict.fromkeys(live[v] for v in step.reads if v in live))
        ending = [v for v in live if last[v] <= number]
        staying = {v: lane for v, lane in live.items() if v not in ending}
        taken = set(staying.values())
        lane = next((x for x in entering if x not in taken), _free(taken))
        live, leaving = dict(staying), []
        for value in dict.fromkeys(step.writes):
            if last.get(value, -1) <= number:
                continue
            used = set(live.values())
            live[value] = lane if lane not in used else _free(used)
            leaving.append(live[value])
        rows.append(Row(lane, tuple(sorted(taken)), entering, tuple(leaving)))
    return rows


def draw_lanes(steps: Sequence[Step]) -> Markup:
    """Return an SVG whose rows are ``ROW_PX`` high, with a dot for every step."""
    rows = place_lanes(steps)
    lanes = 1 + max((max((r.lane, *r.passing, *r.entering, *r.leaving)) for r in rows), default=0)
    pitch = min(_LANE_PX, _WIDEST_PX / lanes)
    parts = [_row(row, number, pitch) for number, row in enumerate(rows)]
    width = pitch * lanes + _DOT_PX
    head = Markup('<svg class="lanes" width="{w:.0f}" height="{h}" viewBox="0 0 {w:.0f} {h}">')
    return head.format(w=width, h=ROW_PX * len(rows)) + Markup("").join(parts) + Markup("</svg>")


def _free(taken: set[int]) -> int:
    return next(lane for lane in range(len(taken) + 1) if lane not in taken)


def _row(row: Row, number: int, pitch: float) -> Markup:
    top, bottom = number * ROW_PX, (number + 1) * ROW_PX
    middle = (top + bottom) / 2

    def at(lane: int) -> float:
        return lane * pitch + _DOT_PX + 1

    lines: list[tuple[int, float, float, float, float]]
    lines = [(lane, at(lane), top, at(lane), bottom) for lane in row.passing]
    lines += [(lane, at(lane), top, at(row.lane), middle) for lane in row.entering]
    lines += [(lane, at(row.lane), middle, at(lane), bottom) for lane in row.leaving]
    drawn = [
        Markup('<path class="c{}" d="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}"/>')
        .format(lane % _COLOURS, x1, y1, x1, (y1 + y2) / 2, x2, (y1 + y2) / 2, x2, y2)
        for lane, x1, y1, x2, y2 in lines
    ]  # fmt: skip
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"/>')
    return Markup("").join([*drawn, dot.format(at(row.lane), middle, _DOT_PX)])

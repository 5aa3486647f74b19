"""Charts as inline HTML or SVG: bars, a roofline, bytes over time. Text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH = 720
_MARGIN = 60
_LONGEST_LABEL = 38


def bar_chart(
    rows: Sequence[tuple[str, float, str]], *, unit: str, others: frozenset[str] = frozenset()
) -> Markup:
    """Return horizontal bars, which fit any width: on a narrow screen labels stand above them.

    Args:
        rows: label, length and tooltip of each bar.
        unit: behind the numbers.
        others: labels of bars that stand back.
    """
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    numbers = [f"{_figure(value)} {unit}" for _, value, _ in rows]
    parts = [
        Markup(
            '<span>{label}</span><p title="{tip}"><i{kind} style="--share:{share:.4f}"></i>'
            "<b>{number}</b></p>"
        ).format(
            label=_short(label), tip=tip, share=value / most, number=number,
            kind=Markup(' class="other"' if label in others else ""),
        ) for (label, value, tip), number in zip(rows, numbers, strict=True)
    ]  # fmt: skip
    head = Markup('<div class="bars" role="group" style="--room:{}ch">').format(
        max(map(len, numbers), default=0) + 2
    )
    return head + Markup("").join(parts) + Markup("</div>")


def step_chart(values: Sequence[float], *, limit: float, unit: str) -> Markup:
    """Return a stepped area, one step a value, with a line at ``limit``."""
    height, top = 180, max([*values, limit, 1.0])
    width = (WIDTH - 2 * _MARGIN) / max(len(values), 1)
    points = [f"{_MARGIN},{height}"]
    for number, value in enumerate(values):
        y = height - (height - 20) * value / top
        points.append(f"{_MARGIN + number * width:.1f},{y:.1f}")
        points.append(f"{_MARGIN + (number + 1) * width:.1f},{y:.1f}")
    points.append(f"{_MARGIN + len(values) * width:.1f},{height}")
    line = height - (height - 20) * limit / top
    content = Markup(
        '<polygon class="area" points="{points}"/>'
        '<line class="limit" x1="{x1}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text x="{x1}" y="{ty:.1f}">{limit:.4g} {unit}</text>'
        '<text x="{x1}" y="{by}">first launch</text>'
        '<text class="label" x="{x2}" y="{by}">last launch</text>'
    ).format(
        points=" ".join(points), x1=_MARGIN, x2=WIDTH - _MARGIN, y=line, ty=line - 5,
        by=height + 16, limit=limit, unit=unit,
    )  # fmt: skip
    return _svg(content, height + 24)


def roofline_chart(
    points: Sequence[tuple[str, float, float, float]], *, gflops: float, gbytes: float
) -> Markup:
    """Return launches under the machine's roof, both axes logarithmic.

    Args:
        points: name, operations a byte, GFLOP/s and share of the time of each launch.
        gflops: the multiply-add peak.
        gbytes: the memory's bandwidth.
    """
    shown = [p for p in points if p[1] > 0 and p[2] > 0]
    ridge = gflops / gbytes
    xs = [p[1] for p in shown] + [ridge]
    ys = [p[2] for p in shown] + [gflops]
    x_low, x_high = _decades(min(xs), max(xs) * 2)
    y_low, y_high = _decades(min(ys), max(ys) * 1.2)
    height = 320

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return _MARGIN + across * (WIDTH - 2 * _MARGIN), height - 30 - up * (height - 50)

    left = max(10**x_low, 10**y_low / gbytes)
    roof = [place(left, left * gbytes), place(ridge, gflops), place(10**x_high, gflops)]
    parts = [_axes(place, (x_low, x_high), (y_low, y_high))]
    parts.append(
        Markup('<polyline class="limit" fill="none" points="{}"/>').format(
            " ".join(f"{x:.1f},{y:.1f}" for x, y in roof)
        )
    )
    parts.append(
        Markup(
            '<text class="label roof" x="{:.1f}" y="{:.1f}">{:.0f} GFLOP/s</text>'
            '<text class="roof" x="{:.1f}" y="{:.1f}">{:.1f} GB/s</text>'
        ).format(roof[2][0], roof[2][1] - 6, gflops, *_beside(roof[0], roof[1]), gbytes)
    )
    for name, intensity, rate, share in shown:
        x, y = place(intensity, rate)
        tip = f"{name}: {rate:.1f} GFLOP/s, {intensity:.2f} FLOP/byte, {share:.1%} of the time"
        dot = '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>'
        parts.append(Markup(dot).format(x, y, 3 + 12 * math.sqrt(share), tip))
    return _svg(Markup("").join(parts), height)


def _axes(place: object, xs: tuple[int, int], ys: tuple[int, int]) -> Markup:
    assert callable(place)
    parts = []
    for power in range(xs[0], xs[1] + 1):
        x, y = place(10.0**power, 10.0 ** ys[0])
        _, top = place(10.0**power, 10.0 ** ys[1])
        parts.append(_line(x, y, x, top))
        parts.append(
            Markup('<text class="middle quiet" x="{:.1f}" y="{:.1f}">{:g}</text>').format(
                x, y + 16, 10.0**power
            )
        )
    for power in range(ys[0], ys[1] + 1):
        x, y = place(10.0 ** xs[0], 10.0**power)
        right, _ = place(10.0 ** xs[1], 10.0**power)
        parts.append(_line(x, y, right, y))
        parts.append(
            Markup('<text class="label quiet" x="{:.1f}" y="{:.1f}">{:g}</text>').format(
                x - 6, y + 4, 10.0**power
            )
        )
    x, y = place(10.0 ** xs[1], 10.0 ** ys[0])
    parts.append(
        Markup(
            '<text class="quiet" x="{}" y="12">GFLOP/s</text>'
            '<text class="label quiet" x="{:.1f}" y="{:.1f}">FLOP a byte</text>'
        ).format(_MARGIN, x, y - 6)
    )
    return Markup("").join(parts)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        x1, y1, x2, y2
    )


def _beside(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float]:
    """Return a place for a text right of the middle of a rising line."""
    return (low[0] + high[0]) / 2 + 10, (low[1] + high[1]) / 2 + 12


def _decades(low: float, high: float) -> tuple[int, int]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return first, max(last, first + 1)


def _figure(value: float) -> str:
    """Return four digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}"


def _svg(content: Markup, height: float) -> Markup:
    head = Markup('<svg role="img" viewBox="0 0 {} {:.0f}">').format(WIDTH, height)
    return head + escape(content) + Markup("</svg>")

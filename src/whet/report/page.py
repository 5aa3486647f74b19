"""One page of HTML that needs nothing else: no script, no font, no picture from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_NUMBER = re.compile(r"[-+–]?[\d.,]*(e[-+]?\d+)?( ?(MiB|KiB|GiB|B|ms|us|s|%))?$")
_MOODS = dict.fromkeys(("FAILED", "FAIL", "high", "NOT accepted", "slower"), "bad")
_MOODS |= dict.fromkeys(("passed", "pass", "ok", "accepted", "faster"), "good")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: texts, a chart, a table.

    Attributes:
        title: heading.
        texts: paragraphs.
        chart: inline HTML or SVG.
        headers: of the table.
        rows: of the table.
        folded: whether the table is shown on demand only.
    """

    title: str
    texts: tuple[str, ...] = ()
    chart: Markup | None = None
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    folded: bool = False

    @property
    def numeric(self) -> frozenset[int]:
        """Return the columns of numbers, which are set to the right."""
        columns = enumerate(zip(*self.rows, strict=False))
        return frozenset(k for k, cells in columns if k and all(map(_NUMBER.match, cells)))


@dataclass(frozen=True, slots=True)
class Summary:
    """What is said before any number.

    Attributes:
        lead: sentences for those who read no further.
        caution: why the numbers may not hold, if there is a reason.
    """

    lead: tuple[str, ...] = ()
    caution: str = ""


def render_page(
    title: str,
    subtitle: str,
    figures: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    summary: Summary = Summary(),
) -> str:
    """Return a whole page; every text is escaped.

    Args:
        title: of the page.
        subtitle: what and where it was made.
        figures: names and values of the most important numbers.
        sections: the rest, in order.
        summary: what stands above the numbers.
    """
    environment = Environment(
        loader=PackageLoader("whet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(
        title=title, subtitle=subtitle, figures=figures, sections=sections, lead=summary.lead,
        caution=summary.caution, mood=_mood,
    )  # fmt: skip


def _mood(text: str) -> Markup:
    """Return the class of a word that is good or bad news."""
    kind = _MOODS.get(text)
    return Markup(' class="{}"').format(kind) if kind else Markup("")

"""One page of HTML that needs nothing else: no script, no font, no picture from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: texts, a chart, a table.

    Attributes:
        title: heading.
        texts: paragraphs.
        chart: inline SVG.
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


def render_page(
    title: str, subtitle: str, figures: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """Return a whole page; every text is escaped.

    Args:
        title: of the page.
        subtitle: what and where it was made.
        figures: names and values of the most important numbers.
        sections: the rest, in order.
    """
    environment = Environment(
        loader=PackageLoader("whet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(title=title, subtitle=subtitle, figures=figures, sections=sections)

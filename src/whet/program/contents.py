"""The table of a manifest that says what buffers hold; each content stands there once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from whet.program.polynomials import from_json, to_json
from whet.program.records import Buffer, Content

NO_CONTENT = -1
"""The number of the content of a buffer that has none."""


class ContentRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One content; ``shape`` are polynomials."""

    dtype: str
    shape: tuple[Any, ...]
    order: str


def number_contents(buffers: Iterable[Buffer]) -> dict[Content, int]:
    """Return the contents of buffers with their numbers, in the order of first use."""
    numbers: dict[Content, int] = {}
    for buffer in buffers:
        if buffer.content is not None:
            numbers.setdefault(buffer.content, len(numbers))
    return numbers


def content_rows(numbers: Iterable[Content]) -> list[ContentRow]:
    """Return contents as they stand in a manifest."""
    return [
        ContentRow(f.dtype, tuple(to_json(extent) for extent in f.shape), f.order) for f in numbers
    ]


def contents_of(rows: Iterable[ContentRow]) -> list[Content]:
    """Return the contents of a manifest."""
    return [Content(r.dtype, tuple(from_json(extent) for extent in r.shape), r.order) for r in rows]


def content_at(contents: Sequence[Content], number: int) -> Content | None:
    """Return a content by its number.

    Raises:
        ValueError: there is none of that number.
    """
    if number == NO_CONTENT:
        return None
    if not 0 <= number < len(contents):
        raise ValueError(f"a buffer has the content {number} of {len(contents)}")
    return contents[number]

"""Decoding of images: the script calls a function of the runtime."""

from __future__ import annotations

from collections.abc import Sequence

from whet.index import as_poly
from whet.lower.outline import Form, Item
from whet.lower.scope import Site
from whet.lower.sequences import call

_CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}


def _decode(site: Site) -> Sequence[Item]:
    given = site.node.attributes.get("pixel_format")
    layout = "RGB" if given is None else given.as_string()
    if layout not in _CHANNELS:
        raise site.refusal(f"to pixels of the form {layout!r}")
    data = site.tensor(0)
    if data.dtype != "uint8" or data.rank != 1:
        raise site.refusal("of other than a row of bytes")
    form = Form("uint8", (None, None, as_poly(_CHANNELS[layout])))
    return call(site, [form], (("pixel_format", layout),))


IMAGES = {"ImageDecoder": _decode}
"""Operators on compressed images, by name."""

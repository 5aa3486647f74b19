"""What commands print with ``--json``, read as the form says that it names."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from whet.cli.forms import all_forms


def conform(text: str) -> dict[str, Any]:
    """Return a document, after comparing it with its form: no field is missing, none is more."""
    found: dict[str, Any] = json.loads(text)
    msgspec.json.decode(text, type=all_forms(strict=True)[found["schema"]])
    return found

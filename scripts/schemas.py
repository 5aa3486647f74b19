"""Write docs/schemas: the JSON schema of what each command prints with ``--json``.

``python scripts/schemas.py`` writes the files, ``--check`` only says whether they are up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from whet.cli.forms import all_forms

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def schema_texts() -> dict[str, str]:
    """Return the content of each file by its name."""
    return {
        f"{name}.json": msgspec.json.format(
            msgspec.json.encode(msgspec.json.schema(form), order="deterministic"), indent=2
        ).decode()
        + "\n"
        for name, form in all_forms().items()
    }


def main() -> int:
    """Write the files, or compare them; returns the exit code."""
    texts = schema_texts()
    if "--check" in sys.argv:
        stale = [n for n, text in texts.items()
                 if not (FOLDER / n).exists() or (FOLDER / n).read_text() != text]  # fmt: skip
        print("\n".join(f"{name} is out of date" for name in stale) or "up to date")
        return bool(stale)
    for name, text in texts.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

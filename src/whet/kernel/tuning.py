"""The file of tuned schedules: what was tried for each question, and which answer is fastest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from whet.errors import OptionError
from whet.kernel.schedules import Answer
from whet.kernel.spec import Tile
from whet.whole_files import read_whole

FORM = "whet.tuning.2"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question.

    Attributes:
        answer: the fastest schedule found; ``None`` where the cost model's is.
        default_us: time with the cost model's schedule when the answer was found.
        tuned_us: time with the answer.
        tried: schedules that were measured or cannot be compiled, so that none is tried twice.
    """

    answer: Answer | None = None
    default_us: float = 0.0
    tuned_us: float = 0.0
    tried: tuple[Answer, ...] = ()


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that was found on one kind of machine, or several: questions name the processor.

    Attributes:
        schema: form and version of the file.
        entries: by the key of the question.
    """

    schema: str = FORM
    entries: dict[str, Entry] = {}

    def answers(self) -> dict[str, Answer]:
        """Return the answers that differ from the cost model's, by key."""
        return {k: e.answer for k, e in sorted(self.entries.items()) if e.answer is not None}

    def updated(self, changes: Mapping[str, Entry]) -> Tuning:
        """Return this with some entries replaced."""
        return Tuning(entries={**self.entries, **changes})

    def text(self) -> str:
        """Return the content of the file."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return msgspec.json.format(msgspec.json.encode(plain, order="sorted")).decode() + "\n"


def read_tuning(path: Path) -> Tuning:
    """Read a file of tuned schedules.

    Raises:
        OptionError: it cannot be read, or is something else.
    """
    try:
        found = msgspec.json.decode(read_whole(path), type=Tuning)
    except OSError as error:
        raise OptionError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            f"not a tuning file: {error}", where=str(path), hint="make one: whet tune m.onnx"
        ) from error
    if found.schema != FORM:
        raise OptionError(
            f"form {found.schema!r} is not {FORM}", where=str(path), hint="tune again: whet tune"
        )
    return found


def describe(answer: Answer) -> str:
    """Return a schedule in words."""
    tile = answer.tile
    if tile is None:
        return "no Winograd"
    default = asdict(Tile(0, 0, 0, 0, 0))
    extras = [f"{k}={v}" for k, v in asdict(tile).items()
              if k not in ("rows", "vectors") and v != default[k]]  # fmt: skip
    kind = f"Winograd {answer.size}, " if answer.size else ""
    kind += "taps in registers, " if answer.in_registers else ""
    return f"{kind}{tile.rows}x{tile.vectors} vectors, {' '.join(extras)}"

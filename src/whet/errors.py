"""Every error that Whet raises for its users: a code, a place and a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_LONGEST_PLACE = 500


class WhetError(Exception):
    """Base of all Whet errors.

    Args:
        message: what is wrong, in one sentence.
        where: the place, such as a node name, an input name or a file.
        hint: what the user can do about it; ``remedy`` if not given.
    """

    code = "E000"
    remedy: str | None = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where if where is None or len(where) <= _LONGEST_PLACE else _cut(where)
        self.hint = hint if hint is not None else self.remedy

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        remedy = f"\n  hint: {self.hint}" if self.hint else ""
        return f"[{self.code}] {self.message}{place}{remedy}"


class ModelError(WhetError):
    """The model file is missing, truncated, malformed or not an ONNX model."""

    code = "E100"


class Problem(NamedTuple):
    """Something that is not supported: a node's name, its operator, and why."""

    node: str
    op: str
    reason: str


class UnsupportedError(WhetError):
    """The model uses operators or types that Whet cannot compile; all are listed at once.

    Args:
        message: what is wrong, in one sentence.
        where: the place.
        hint: what the user can do about it.
        problems: every node concerned.
    """

    code = "E110"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        problems: Iterable[Problem] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.problems = tuple(problems) or (Problem(where or "", "", message),)


class ShapeError(WhetError):
    """Shapes do not fit together, or a shape is not known well enough."""

    code = "E120"


class OptionError(WhetError):
    """An option has an unknown name or an invalid value."""

    code = "E200"


class InputError(WhetError):
    """An array given to a model is missing, unknown or of the wrong type or shape."""

    code = "E300"


class ArtifactError(WhetError):
    """A compiled file is truncated, damaged, of another version, or cannot be written."""

    code = "E400"
    remedy = "compile the model again"


class TargetError(WhetError):
    """The machine lacks a feature that the compiled code needs, or a target is unknown."""

    code = "E410"


class CompileError(WhetError):
    """The compiler failed on a model it should have handled; this is a bug in Whet."""

    code = "E500"
    remedy = "report this; WHET_DUMP=folder writes what a report should hold"


class ResourceError(WhetError):
    """A limit on memory, disk, threads or time was reached."""

    code = "E600"
    remedy = "give it more, or take a smaller batch or model"


def _cut(place: str) -> str:
    """Shorten the name of a place in the middle; a hostile model's may have megabytes."""
    half = _LONGEST_PLACE // 2
    return f"{place[:half]}…{place[-half:]}"


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return a hint that names the valid name closest to ``name``, or all of them, or none.

    What was given as a name need not be a text.
    """
    import difflib  # only errors need it

    names = sorted(valid)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(names)}"

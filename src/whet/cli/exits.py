"""Exit codes: what a script learns from ``whet`` without reading its words."""

from __future__ import annotations

from whet.errors import (
    ArtifactError,
    CompileError,
    InputError,
    ModelError,
    OptionError,
    ResourceError,
    ShapeError,
    TargetError,
    UnsupportedError,
    WhetError,
)

OK = 0
NEGATIVE = 1
USAGE = 2
MODEL = 3
INPUT = 4
ARTIFACT = 5
INTERNAL = 70
INTERRUPTED = 130
CLOSED_PIPE = 141

_BY_ERROR: tuple[tuple[type[WhetError], int], ...] = (
    (ModelError, MODEL),
    (UnsupportedError, MODEL),
    (ShapeError, MODEL),
    (OptionError, USAGE),
    (InputError, INPUT),
    (ArtifactError, ARTIFACT),
    (TargetError, ARTIFACT),
    (ResourceError, ARTIFACT),
    (CompileError, INTERNAL),
)


def exit_code(error: WhetError) -> int:
    """Return the exit code for an error; one of no special kind is a request we cannot meet."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), USAGE)

"""Arrays that somebody wrote to a file, of which nothing is trusted."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

HINT = "give a .npy or .npz file that numpy.save or numpy.savez wrote"

_DAMAGED = (
    ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
"""What NumPy and zipfile raise: for headers that are no Python, streams that do not inflate,
unknown methods, encrypted members, and shapes beyond all memory."""


def load_arrays(path: Path, *, hint: str = HINT) -> Array | dict[str, Array]:
    """Load a ``.npy`` or ``.npz`` file; nothing in it is ever executed.

    Raises:
        InputError: it cannot be read, or is damaged; the error has the hint.
    """
    try:
        require_file(path, hint)
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return {name: np.asarray(loaded[name]) for name in loaded.files}
    except OSError as error:
        raise InputError(
            f"cannot read: {error.strerror or error}", where=str(path), hint=hint
        ) from error
    except _DAMAGED as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        if "pickle" in reason:  # what NumPy says of whatever it does not know
            reason = "its form is unknown, or it holds Python objects"
        raise InputError(f"not an array file: {reason}", where=str(path), hint=hint) from error


def require_file(path: Path, hint: str | None = None) -> None:
    """Refuse a pipe, for whose writer a reader would wait, and all else that is there and no file.

    Raises:
        InputError: it is there and no file; with the hint.
        OSError: nobody may look.
    """
    if path.exists() and not path.is_file():
        raise InputError("this is no file", where=str(path), hint=hint)

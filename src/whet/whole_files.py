"""Files that are written whole or not at all: a temporary name, fsync, then the real name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from whet.errors import ArtifactError


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into an error that names it.

    Raises:
        ArtifactError: the body raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            hint="check space and permissions",
        ) from error


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file, of which no half is ever seen, whatever interrupts it.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with (
        write_errors(path),
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=".whet-", delete=False) as file,
    ):
        try:
            os.fchmod(file.fileno(), 0o644)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    write_whole(path, lambda file: file.write(data))

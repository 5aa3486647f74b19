"""Files that are written whole or not at all: a temporary name, fsync, then the real name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from whet.errors import ArtifactError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into an error that names it.

    Raises:
        ArtifactError: the body raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        raise ArtifactError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            hint="free some space, or save elsewhere" if full else "check space and permissions",
        ) from error


def check_replaceable(path: Path) -> None:
    """Check that a file may take the place of what bears its name: a rename replaces devices too.

    Raises:
        ArtifactError: ``path`` is a device, a pipe or a folder, or the name is not possible.
    """
    with write_errors(path):
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        if not stat.S_ISREG(kind) or path.parent.resolve() == Path("/dev"):
            raise ArtifactError("the output is no file", where=str(path), hint="name a file")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file, of which no half is ever seen, whatever interrupts it.

    Raises:
        ArtifactError: the file cannot be written.
    """
    check_replaceable(path)
    temporary = path.with_name(f".whet-{os.urandom(8).hex()}.tmp")
    with write_errors(path):
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    write_whole(path, lambda file: file.write(data))


def _sync_folder(folder: Path) -> None:
    """Make a new name outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

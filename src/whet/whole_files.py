"""Files that are written whole or not at all: a temporary name, fsync, then the real name."""

from __future__ import annotations

import errno
import os
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


def path_of(given: object) -> Path:
    """Return the path of a file to write.

    Raises:
        ArtifactError: no file can have that name.
    """
    if isinstance(given, (str, os.PathLike)) and Path(given).name and "\0" not in str(given):
        return Path(given)
    raise ArtifactError(f"{given!r} names no file", hint="give the path of a file to write")


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket: what a file must not take the place of."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file, of which no half is ever seen, whatever interrupts it.

    A device or a pipe, such as ``/dev/null``, is written to and stays what it is.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with write_errors(path):
        if is_stream(path):
            with path.open("wb") as stream:
                write(stream)
            return
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


def make_folder(
    path: Path, name: str = "the folder", *, hint: str = "choose another place"
) -> None:
    """Create a folder for results, or take one that is there.

    Raises:
        ArtifactError: it cannot be created; the error calls it by its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"cannot create {name}: {reason}", where=str(path), hint=hint
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

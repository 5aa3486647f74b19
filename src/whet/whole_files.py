"""Files that are written whole or not at all: no name, or a hidden one, until all is on disk.

And files that are read whole, of which nothing is trusted, their length neither.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from whet.errors import ArtifactError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

MOST_READ_BYTES = 256 << 20
"""More than any file of settings, schedules or measurements has."""


def read_whole(path: Path, most: int = MOST_READ_BYTES) -> bytes:
    """Return what a file has or a pipe gives, if that is no more than so many bytes.

    Raises:
        OSError: it cannot be read, or has more, as a device without end.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data


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


def read_text_whole(path: Path, most: int = MOST_READ_BYTES) -> str:
    """Return the text of a file or pipe, in UTF-8.

    Raises:
        OSError: as ``read_whole`` does.
        UnicodeDecodeError: it is no text.
    """
    return io.TextIOWrapper(io.BytesIO(read_whole(path, most)), encoding="utf-8").read()


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

    The file has no name until it is whole, where the file system can do that; a process that is
    killed leaves nothing behind then. A device or a pipe, such as ``/dev/null``, is written to and
    stays what it is.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with write_errors(path):
        if is_stream(path):
            with path.open("wb") as stream:
                write(stream)
            return
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file = _without_name(path.parent)
            if file is None:
                _write_named(path, write)
            else:
                with file:
                    _fill(file, write)
                    _give_name(file, path, folder)
            os.fsync(folder)  # the new name outlasts a loss of power
        finally:
            os.close(folder)


def _without_name(folder: Path) -> IO[bytes] | None:
    """Return a new file in a folder that has no name yet; ``None`` if it cannot have such."""
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    if not os.path.exists(_handle_path(handle)):
        os.close(handle)
        return None
    return os.fdopen(handle, "wb")


def _handle_path(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _give_name(file: IO[bytes], path: Path, folder: int) -> None:
    """Give a file its name, in place of the one that has it.

    Only a rename replaces a file, so that a hidden name lasts for an instant in that case.
    """
    try:
        _link(file, path, folder)
    except FileExistsError:
        hidden = path.with_name(_hidden_name())
        try:
            _link(file, hidden, folder)
            os.replace(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)


def _link(file: IO[bytes], path: Path, folder: int) -> None:
    """Name an open file; that a folder is given is what makes Linux follow ``/proc``'s link."""
    os.link(_handle_path(file.fileno()), path, src_dir_fd=folder, follow_symlinks=True)


def _write_named(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Fill a file under a hidden name, then rename it; a kill leaves the hidden one behind."""
    temporary = path.with_name(_hidden_name())
    try:
        with temporary.open("xb") as file:
            _fill(file, write)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _fill(file: IO[bytes], write: Callable[[IO[bytes]], object]) -> None:
    write(file)
    file.flush()
    os.fsync(file.fileno())


def _hidden_name() -> str:
    return f".whet-{os.urandom(8).hex()}.tmp"


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

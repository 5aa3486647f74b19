"""Writing a ``.whet`` file: whole or not at all; ``container.py`` says what is where."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from whet.errors import ArtifactError
from whet.program.blake2b import blake2b
from whet.program.container import HEADER, MAGIC, MAJOR, MINOR, PAGE, SECTIONS, digest
from whet.program.make_manifest import make_manifest
from whet.program.manifest import SectionRow, encode_manifest
from whet.program.records import Program


def write_container(
    path: str | os.PathLike[str],
    program: Program,
    symbols: Mapping[str, int],
    sections: Mapping[str, memoryview],
    metadata: Mapping[str, str],
) -> None:
    """Write a file, whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: where to; an existing file is replaced.
        program: the program.
        symbols: offsets of functions in the code.
        sections: bytes by name, from ``SECTIONS``.
        metadata: further facts to keep.

    Raises:
        ArtifactError: the file cannot be written; nothing is left behind.
    """
    target = Path(path)
    views = {name: sections[name].cast("B") for name in SECTIONS if name in sections}
    digests = {name: digest(view) for name, view in views.items()}
    head, rows = _compose(program, symbols, views, digests, metadata)
    temporary = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    try:
        try:
            _write_file(temporary, head, [(row.offset, views[row.name]) for row in rows])
            os.replace(temporary, target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(target.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some space, or save elsewhere" if full else None
        reason = error.strerror or str(error)
        raise ArtifactError(f"cannot write: {reason}", where=str(target), hint=hint) from error


def _compose(
    program: Program,
    symbols: Mapping[str, int],
    views: Mapping[str, memoryview],
    digests: Mapping[str, str],
    metadata: Mapping[str, str],
) -> tuple[bytes, list[SectionRow]]:
    """Return header and manifest, and the sections' places, which depend on its length."""
    length = 0
    while True:
        rows, cursor = [], HEADER.size + length
        for name, view in views.items():
            start = -(-cursor // PAGE) * PAGE
            rows.append(SectionRow(name, start, view.nbytes, digests[name]))
            cursor = start + view.nbytes
        manifest = encode_manifest(make_manifest(program, symbols, rows, metadata))
        if len(manifest) == length:
            break
        length = len(manifest)
    check = blake2b(manifest, digest_size=32).digest()
    return HEADER.pack(MAGIC, MAJOR, MINOR, cursor, length, check) + manifest, rows


def _write_file(path: Path, head: bytes, parts: list[tuple[int, memoryview]]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(handle, memoryview(head))
        cursor = len(head)
        for offset, view in parts:
            _write_all(handle, memoryview(bytes(offset - cursor)))
            _write_all(handle, view)
            cursor = offset + view.nbytes
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(handle, view[: 2**30]) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Writing a ``.whet`` file: whole or not at all; ``container.py`` says what is where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from whet.program.blake2b import blake2b
from whet.program.container import HEADER, MAGIC, MAJOR, MINOR, PAGE, SECTIONS, digest
from whet.program.make_manifest import make_manifest
from whet.program.manifest import SectionRow, encode_manifest
from whet.program.records import Program
from whet.whole_files import path_of, write_whole


def write_container(
    path: str | os.PathLike[str],
    program: Program,
    symbols: Mapping[str, int],
    sections: Mapping[str, memoryview],
    metadata: Mapping[str, str],
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where to; an existing file is replaced, a device or pipe is not.
        program: the program.
        symbols: offsets of functions in the code.
        sections: bytes by name, from ``SECTIONS``.
        metadata: further facts to keep.

    Raises:
        ArtifactError: the file cannot be written; nothing is left behind.
    """
    target = path_of(path)
    views = {name: sections[name].cast("B") for name in SECTIONS if name in sections}
    digests = {name: digest(view) for name, view in views.items()}
    head, rows = _compose(program, symbols, views, digests, metadata)
    write_whole(target, lambda file: _write_parts(file, head, rows, views))


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


def _write_parts(
    file: IO[bytes], head: bytes, rows: list[SectionRow], views: Mapping[str, memoryview]
) -> None:
    file.write(head)
    cursor = len(head)
    for row in rows:
        view = views[row.name]
        file.write(bytes(row.offset - cursor))
        file.write(view)
        cursor = row.offset + view.nbytes

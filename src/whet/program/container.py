"""The ``.whet`` file.

    0      magic, format version, file size, manifest size, BLAKE2b of the manifest: 64 bytes
    64     manifest, JSON
    ...    sections ``code``, ``graph`` (optional), ``weights``, each from a 4096-byte boundary

There is one right place for each byte: sections follow each other in this order without holes
but for zeroed padding, and the last one ends the file. A ``.whet`` holds machine code: load only
what you trust. The digests find damage, not malice.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np

from whet.errors import ArtifactError
from whet.mapped import MappedFile
from whet.program.blake2b import blake2b
from whet.program.manifest import (
    Manifest,
    SectionRow,
    decode_manifest,
    program_of,
)
from whet.program.records import Program

MAGIC = b"\x89WHET\r\n\x1a"
MAJOR, MINOR = 2, 2
PAGE = 4096
SECTIONS = ("code", "graph", "weights")

HEADER = struct.Struct("<8sIIQQ32s")
_MOST_MANIFEST = 2**28
_GRID_COLUMNS = 1024
_GRID_BLOCK = 512 * _GRID_COLUMNS


class Container(msgspec.Struct, frozen=True):
    """An open, checked ``.whet`` file.

    Attributes:
        program: what to run.
        manifest: the manifest as stored.
        handle: descriptor of the file; closed when the context of ``open_container`` ends.
    """

    program: Program
    manifest: Manifest
    handle: int

    @property
    def sections(self) -> dict[str, SectionRow]:
        """Where each section lies."""
        return {row.name: row for row in self.manifest.sections}


def digest(data: memoryview) -> str:
    """Return a digest that changes with any damaged byte, at the speed of memory.

    The bytes are laid out as grids of 512 x 1024 64-bit words; BLAKE2b runs over the sums of their
    rows and columns. A change of one word always shows. Measured on 100 MB: 6 ms, against 73 ms for
    BLAKE2b and 15 ms for CRC-32.
    """
    state = blake2b(struct.pack("<Q", data.nbytes), digest_size=32)
    words = np.frombuffer(data, "<u8", data.nbytes // 8)
    for begin in range(0, len(words), _GRID_BLOCK):
        block = words[begin : begin + _GRID_BLOCK]
        whole = len(block) // _GRID_COLUMNS * _GRID_COLUMNS
        grid = block[:whole].reshape(-1, _GRID_COLUMNS)
        state.update(np.add.reduce(grid, axis=0).tobytes())
        state.update(np.add.reduce(grid, axis=1).tobytes())
        state.update(block[whole:].tobytes())
    state.update(bytes(data[data.nbytes // 8 * 8 :]))
    return state.hexdigest()


@contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[Container]:
    """Open a file and check its structure; the sections' bytes are checked by ``map_section``.

    Raises:
        ArtifactError: the file is missing, truncated, damaged or of another version.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ArtifactError(
            "there is no such file", where=os.fspath(path), hint="check the path"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"cannot read: {_reason(error)}", where=str(path), hint="check the path"
        ) from error
    try:
        yield _read_structure(handle)
    except ArtifactError as error:
        if error.where is None:
            error.where = os.fspath(path)
        raise
    except OSError as error:
        raise ArtifactError(
            f"cannot read: {_reason(error)}", where=os.fspath(path), hint="check the path"
        ) from error
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def map_section(container: Container, row: SectionRow) -> tuple[MappedFile | None, memoryview]:
    """Map a section for reading and check its digest; return the mapping and its bytes.

    Raises:
        ArtifactError: the bytes differ from those written.
    """
    if row.size == 0:
        mapped, view = None, memoryview(b"")
    else:
        mapped = MappedFile(container.handle, row.offset, row.size)
        mapped.prefer_large_pages()
        view = mapped.view
    check_section(row, view)
    return mapped, view


def read_section(container: Container, row: SectionRow) -> memoryview:
    """Return a copy of a section, whose digest is right.

    It has pages of its own, which are given back with it; the heap would keep them.

    Raises:
        ArtifactError: the bytes differ from those written.
    """
    data = memoryview(mmap.mmap(-1, row.size) if row.size else b"")
    size = os.preadv(container.handle, [data], row.offset) if row.size else 0
    check_section(row, data[:size])
    return data


def check_section(row: SectionRow, view: memoryview) -> None:
    """Check the digest of a section's bytes.

    Raises:
        ArtifactError: the bytes differ from those written.
    """
    if digest(view) != row.digest:
        raise ArtifactError(f"section {row.name!r} is damaged", hint="compile the model again")


def _read_structure(handle: int) -> Container:
    size = os.fstat(handle).st_size
    head = os.pread(handle, HEADER.size, 0)
    if head[: len(MAGIC)] != MAGIC:
        raise ArtifactError("not a .whet file", hint="give a file that whet compile wrote")
    if len(head) < HEADER.size:
        raise ArtifactError("the file is truncated")
    _, major, minor, file_size, length, check = HEADER.unpack(head)
    if major != MAJOR or minor > MINOR:
        age = "newer" if (major, minor) > (MAJOR, MINOR) else "older"
        raise ArtifactError(
            f"format {major}.{minor} is {age} than this Whet's {MAJOR}.{MINOR}",
            hint="compile the model again with this Whet",
        )
    if file_size != size:
        raise ArtifactError(f"the file has {size} bytes instead of {file_size}")
    if length > min(size - HEADER.size, _MOST_MANIFEST):
        raise ArtifactError(f"a manifest of {length} bytes does not fit")
    manifest = _read_manifest(handle, length, check)
    _check_sections(handle, manifest, HEADER.size + length, size)
    return Container(program_of(manifest), manifest, handle)


def _read_manifest(handle: int, length: int, check: bytes) -> Manifest:
    """Return the manifest; its bytes have pages of their own, which the heap would keep."""
    data = memoryview(mmap.mmap(-1, max(length, 1)))[:length]
    size = os.preadv(handle, [data], HEADER.size) if length else 0
    if size != length or blake2b(data, digest_size=32).digest() != check:
        raise ArtifactError("the manifest is damaged", hint="compile the model again")
    return decode_manifest(data)


def _check_sections(handle: int, manifest: Manifest, cursor: int, size: int) -> None:
    names = [row.name for row in manifest.sections]
    if names != [name for name in SECTIONS if name in names]:
        raise ArtifactError(f"sections are {names}, expected some of {list(SECTIONS)} in order")
    if "code" not in names or "weights" not in names:
        raise ArtifactError("the file has no code or no weights")
    for row in manifest.sections:
        start = -(-cursor // PAGE) * PAGE
        if row.offset != start or not 0 <= row.size <= size - start:
            raise ArtifactError(f"section {row.name!r} is not where it belongs")
        if any(os.pread(handle, start - cursor, cursor)):
            raise ArtifactError(f"the padding before section {row.name!r} is damaged")
        cursor = start + row.size
    if cursor != size:
        raise ArtifactError(f"the sections end at {cursor}, the file at {size}")

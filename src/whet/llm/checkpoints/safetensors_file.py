"""Writing safetensors: tensors one after another, under a temporary name until all are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from whet.llm.architecture import Array
from whet.whole_files import write_whole

_NAMES = {"float32": "F32", "uint8": "U8"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to write: its type, its shape, and how to get it when its turn comes."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def write_safetensors(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a file; it appears under its name when it is complete.

    Raises:
        ArtifactError: the file cannot be written.
    """
    header = _header(entries)

    def write(file: IO[bytes]) -> None:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for entry in entries.values():
            array = np.ascontiguousarray(entry.read(), entry.dtype)
            assert array.shape == entry.shape, f"{array.shape} is not {entry.shape}"
            file.write(array.data)

    write_whole(path, write)


def _header(entries: Mapping[str, Entry]) -> bytes:
    """Return where each tensor lies, as JSON of a length that is a multiple of eight."""
    header: dict[str, object] = {}
    place = 0
    for name, entry in entries.items():
        span = [place, place + entry.size]
        kind = _NAMES[entry.dtype]
        header[name] = {"dtype": kind, "shape": list(entry.shape), "data_offsets": span}
        place = span[1]
    text = json.dumps(header).encode()
    return text + b" " * (-len(text) % 8)

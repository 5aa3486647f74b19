"""The compile cache: object code by the hash of everything that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import llvmlite

from whet.target import Target

MAGIC = b"whet-object-1\n"
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class ObjectCache:
    """A folder of object files; safe for many processes at once.

    Each file holds a check sum of its content: what was damaged or only half written is compiled
    again. Failing to write is no error; the kernel is then compiled anew next time.

    Attributes:
        folder: where files are kept; ``None`` keeps nothing.
    """

    folder: Path | None

    def get(self, key: str) -> bytes | None:
        """Return the object of a key, if it is there and whole."""
        if self.folder is None:
            return None
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        head = len(MAGIC) + DIGEST_BYTES
        body = data[head:]
        intact = data.startswith(MAGIC) and data[len(MAGIC) : head] == _digest(body)
        return body if intact else None

    def put(self, key: str, body: bytes) -> None:
        """Keep an object: written to a temporary name, then renamed."""
        if self.folder is None:
            return
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(MAGIC + _digest(body) + body)
                os.replace(name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "objects" / key[:2] / f"{key}.o"


def object_key(text: str, target: Target) -> str:
    """Return the cache key of a module: its text, the target and the LLVM that compiles it."""
    parts = (text, target.triple, target.cpu, target.features, llvmlite.__version__)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=20).hexdigest()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()

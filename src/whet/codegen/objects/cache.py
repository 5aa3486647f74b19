"""The compile cache: object code by the hash of everything that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import llvmlite
import msgspec

from whet.target import Target

MAGIC = b"whet-object-1\n"
DIGEST_BYTES = 16


class ObjectCache(msgspec.Struct, frozen=True):
    """A folder of object files; safe for many processes at once.

    Objects are found by the text that they were compiled from, and through ``recall`` also by the
    kernel that the text was written for. Each file holds a check sum of its content: what was
    damaged or only half written is compiled again. Failing to write is no error; the kernel is
    then compiled anew next time.

    Attributes:
        folder: where files are kept; ``None`` keeps nothing.
    """

    folder: Path | None

    def get(self, key: str) -> bytes | None:
        """Return the object of a key, if it is there and whole."""
        return self._read("objects", f"{key}.o")

    def put(self, key: str, body: bytes) -> None:
        """Keep an object: written to a temporary name, then renamed."""
        self._write("objects", f"{key}.o", body)

    def recall(self, kernel: str) -> bytes | None:
        """Return the object of a kernel by the kernel's key, if it is known."""
        key = self._read("kernels", kernel)
        return None if key is None else self.get(key.decode())

    def remember(self, kernel: str, key: str) -> None:
        """Note which object a kernel has."""
        self._write("kernels", kernel, key.encode())

    def _read(self, kind: str, name: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            data = self._path(kind, name).read_bytes()
        except OSError:
            return None
        head = len(MAGIC) + DIGEST_BYTES
        body = data[head:]
        intact = data.startswith(MAGIC) and data[len(MAGIC) : head] == _digest(body)
        return body if intact else None

    def _write(self, kind: str, name: str, body: bytes) -> None:
        if self.folder is None:
            return
        path = self._path(kind, name)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, new = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(MAGIC + _digest(body) + body)
                os.replace(new, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise

    def _path(self, kind: str, name: str) -> Path:
        assert self.folder is not None
        return self.folder / kind / name[:2] / name


def object_key(text: str, target: Target) -> str:
    """Return the cache key of a module: its text, the target and the LLVM that compiles it."""
    parts = (text, target.triple, target.cpu, target.features, llvmlite.__version__)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=20).hexdigest()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()

"""A model that is being read: what takes time and no compiler goes on beside everything else.

Nothing heavy is imported here, so that the file can be read while the compiler is imported.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Union

from whet.errors import ModelError, ResourceError
from whet.lower.room import Room
from whet.mapped import MappedFile
from whet.program.container import digest

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Source = Union[str, os.PathLike[str], bytes, "onnx.ModelProto", "ir.Model"]

MAX_PROTO_BYTES = (1 << 31) - 1
"""Protocol buffers cannot be larger; bigger models keep their weights in external data."""


class Reading:
    """The source of a model, and what is made of it on another thread inside a ``with`` block.

    Args:
        source: path of an ONNX file, its bytes, or a model in memory.

    Attributes:
        source: as it was given.
        file: the file of a path, mapped; ``None`` if it is empty, or there is no path.
        room: memory for the weights, for as many bytes as the file has.

    Raises:
        ModelError: there is no such file, it is a folder, unreadable or too large.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.file = read_file(Path(source)) if isinstance(source, str | os.PathLike) else None
        self._data = _bytes_of(source, self.file)
        self.room = Room(0 if self._data is None else len(self._data))
        self._aside = ThreadPoolExecutor(1)
        self._digest: Future[str] | None = None

    def __enter__(self) -> Self:
        self._aside.submit(self.room.make_pages)
        if self._data is not None:
            self._digest = self._aside.submit(digest, self._data)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.room.close()
        self._aside.shutdown()

    def digest(self) -> str | None:
        """Return the digest of the file or bytes, when it is made; ``None`` for other sources."""
        return None if self._digest is None else self._digest.result()


def _bytes_of(source: Source, file: MappedFile | None) -> memoryview | None:
    if isinstance(source, bytes):
        return memoryview(source)
    if not isinstance(source, str | os.PathLike):
        return None
    return memoryview(b"") if file is None else file.view


def read_file(path: Path) -> MappedFile | None:
    """Map a model file into memory; ``None`` if it is empty.

    Raises:
        ModelError: there is no such file, it is a folder, unreadable or too large.
    """
    try:
        # Opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _map(handle, path)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ModelError(
            "there is no such model file", where=str(path), hint="check the path"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the model file cannot be read: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            hint="check the path and its permissions",
        ) from error
    except MemoryError as error:
        raise ResourceError("not enough memory to read the model", where=str(path)) from error


def _map(handle: int, path: Path) -> MappedFile | None:
    state = os.fstat(handle)
    if stat.S_ISDIR(state.st_mode):
        raise ModelError(
            "the model path is a folder", where=str(path), hint="give the .onnx file in it"
        )
    if not stat.S_ISREG(state.st_mode):
        raise ModelError(
            "the model path is not a plain file", where=str(path), hint="save the model to a file"
        )
    if state.st_size > MAX_PROTO_BYTES:
        raise ModelError(
            f"the model file has {state.st_size} bytes, more than a protocol buffer can hold",
            where=str(path),
            hint="save it with external data: onnx.save(..., save_as_external_data=True)",
        )
    if state.st_size == 0:
        return None
    return MappedFile(handle, 0, state.st_size)

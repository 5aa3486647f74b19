"""Files of arrays that are damaged in every way give one error that names them."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from whet.array_files import load_arrays
from whet.errors import InputError


def _plain() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(60, dtype=np.float32).reshape(5, 3, 4))
    return buffer.getvalue()


def _archive(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("x.npy", _plain())
    return buffer.getvalue()


FILES = {
    "a.npy": _plain(),
    "stored.npz": _archive(zipfile.ZIP_STORED),
    "deflated.npz": _archive(zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_are_numbers_or_one_error(name: str, tmp_path: Path) -> None:
    rng, refused = random.Random(0), 0
    path = tmp_path / name
    for _ in range(400):
        data = bytearray(FILES[name])
        for _ in range(rng.choice((1, 2, 6))):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0, 255, 41))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        try:
            load_arrays(path, hint="hint")
        except InputError as error:
            refused += 1
            assert error.where == str(path)
    assert refused > 200


@pytest.mark.parametrize("shape", [b"(5, 3, 4 ", b"(9**9**9,)", b"(2**62,)", b"(99999999,"])
def test_headers_that_are_no_shapes(shape: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    at = FILES["a.npy"].index(b"(5, 3, 4)")
    changed = FILES["a.npy"][:at] + shape.ljust(12) + b"}" + FILES["a.npy"][at + 13 :]
    path.write_bytes(changed)
    with pytest.raises(InputError, match="not an array file"):
        load_arrays(path, hint="hint")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="this is no file"):
        load_arrays(tmp_path / "pipe.npy", hint="hint")

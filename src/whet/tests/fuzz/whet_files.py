"""Damaged ``.whet`` files: each is refused with a reason, or loads and runs as before.

Damage that leaves the digests wrong must be found. Damage with digests made right again is malice,
which no loader of machine code can find; it must still not bring the loader down.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import whet
from whet.errors import CompileError, WhetError
from whet.program.container import HEADER, MAGIC, MAJOR, MINOR
from whet.tests.fuzz.children import BUG, OK, REFUSED
from whet.tests.fuzz.mutate import FLOATS, INTEGERS, TEXTS, Rng, mutate_bytes
from whet.tests.small_models import layer_model, run_layer

X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)


@functools.cache
def original() -> bytes:
    """Return an undamaged file, with an open dimension."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.whet"
        options = whet.Options(threads=1, cache_dir="")
        whet.compile(layer_model("n"), options=options).save(path)
        return path.read_bytes()


def damaged(seed: int) -> tuple[bytes, bool]:
    """Return the damaged file of a seed, and whether its digests were made right again."""
    rng, data = np.random.default_rng(seed), original()
    if rng.random() < 0.5:
        return mutate_bytes(data, rng), False
    length = HEADER.unpack(data[: HEADER.size])[4]
    manifest = data[HEADER.size : HEADER.size + length]
    if rng.random() < 0.2:
        changed = mutate_bytes(manifest, rng)
    else:
        tree = json.loads(manifest)
        for _ in range(int(rng.integers(1, 3))):
            _mutate_tree(tree, rng)
        changed = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    return _signed(data, length, changed), True


def _signed(data: bytes, length: int, manifest: bytes) -> bytes:
    """Return the file with another manifest, the header fitting it."""
    page = 4096
    start = -(-(HEADER.size + length) // page) * page
    place = -(-(HEADER.size + len(manifest)) // page) * page
    tail = data[start:]
    check = hashlib.blake2b(manifest, digest_size=32).digest()
    head = HEADER.pack(MAGIC, MAJOR, MINOR, place + len(tail), len(manifest), check)
    padding = bytes(place - len(head) - len(manifest))
    return head + manifest + padding + tail


def _mutate_tree(tree: Any, rng: Rng) -> None:
    """Change one value somewhere in a JSON tree, in place."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        inner = tree[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.9:
            tree = inner
            continue
        if rng.random() < 0.15:
            del tree[key]
        else:
            tree[key] = _other(inner, rng)
        return


def _other(value: Any, rng: Rng) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.8:
        return int(INTEGERS[int(rng.integers(len(INTEGERS)))])
    choices: tuple[Any, ...] = (
        None,
        True,
        [],
        {},
        [value],
        [[1, [["//", 1, 0]]]],
        *TEXTS,
        *FLOATS[:6],
    )
    return choices[int(rng.integers(len(choices)))]


def load_and_run(data: bytes, *, signed: bool) -> tuple[str, str]:
    """Return what becomes of a file: ``ok``, ``refused`` or ``bug``, and why."""
    handle, path = tempfile.mkstemp(suffix=".whet")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        try:
            model = whet.load(path)
            repr((model.inputs, model.outputs, model.metadata, model.stats))
        except CompileError:
            return BUG, traceback.format_exc()
        except WhetError as error:
            return REFUSED, type(error).__name__
        except Exception:  # noqa: BLE001 - that is what is looked for
            return BUG, traceback.format_exc()
        if signed:
            return OK, ""
        if data != original():
            return BUG, "damage was not found"
        same = np.allclose(model.run({"x": X})["y"], run_layer(X))
        return (OK, "") if same else (BUG, "another result")
    finally:
        os.unlink(path)

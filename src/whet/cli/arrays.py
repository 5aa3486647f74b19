"""Arrays in and out: files, random inputs, saved outputs, and a line about each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from whet.array_files import HINT, load_arrays
from whet.cli.opening import Array
from whet.cli.output import write_whole
from whet.errors import InputError, nearest
from whet.measure.feeds import random_inputs
from whet.program.records import TensorSpec
from whet.words import counted

RANDOM = "random"
ZERO = "zero"


def read_inputs(
    sources: Sequence[str], specs: Sequence[TensorSpec], dims: Mapping[str, int]
) -> dict[str, Array]:
    """Read the values of ``--input``.

    Each is ``random``, ``random:SEED``, ``zero``, a ``.npz`` with an array an input, a ``.npy`` for
    a model of one input, or ``NAME=`` followed by a ``.npy`` file or ``random``.

    Raises:
        InputError: a source cannot be read, or names an input that the model does not have.
    """
    arrays: dict[str, Array] = {}
    names = [spec.name for spec in specs]
    for source in sources:
        name, equals, value = source.rpartition("=")
        if equals and name in names:
            chosen = [spec for spec in specs if spec.name == name]
            arrays |= _read_source(value, chosen, dims)
        elif equals and not Path(source).exists():
            raise InputError(f"the model has no input {name!r}", hint=nearest(name, names))
        else:
            arrays |= _read_source(source, specs, dims)
    return arrays


def read_feeds(
    sources: Sequence[str], specs: Sequence[TensorSpec], dims: Mapping[str, int], count: int
) -> list[dict[str, Array]]:
    """Read inputs several times: sources that say just ``random`` give fresh numbers each time.

    Raises:
        InputError: as of ``read_inputs``.
    """
    fresh = [source.rpartition("=")[2] == RANDOM for source in sources]
    feeds = count if any(fresh) else 1
    return [
        read_inputs(
            [f"{s}:{n}" if f else s for s, f in zip(sources, fresh, strict=True)], specs, dims
        )
        for n in range(feeds)
    ]


def _read_source(
    source: str, specs: Sequence[TensorSpec], dims: Mapping[str, int]
) -> dict[str, Array]:
    """Read one source for the inputs that it may fill."""
    word, _, seed = source.partition(":")
    if word == RANDOM:
        if seed and not seed.isdecimal():
            raise InputError(f"the seed {seed!r} is not a number", hint="such as random:42")
        return random_inputs(specs, dims, seed=int(seed or 0))
    if word == ZERO and not seed:
        made = random_inputs(specs, dims, seed=0)
        return {name: np.zeros_like(array) for name, array in made.items()}
    loaded = load_arrays(Path(source), hint=f"{HINT}, or random")
    if isinstance(loaded, dict):
        return loaded
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(
            f"the model has {counted(len(specs), 'input')}: {names}",
            where=source,
            hint="say which one: --input NAME=FILE",
        )
    return {specs[0].name: loaded}


def write_arrays(path: Path, values: Mapping[str, Any]) -> None:
    """Write outputs to a ``.npz``, or a single one to a ``.npy``; all of it or nothing.

    Types that NumPy's format does not know (bfloat16, fp8) are written as float32. The arrays of a
    sequence ``y`` are called ``y[0]``, ``y[1]`` and so on; of an empty optional nothing is written.

    Raises:
        InputError: the suffix is neither, or several outputs go to a ``.npy``.
        ArtifactError: the file cannot be written.
    """
    arrays = dict(_named_arrays(values))
    check_suffix(path, len(arrays))
    plain = {name: _plain(array) for name, array in arrays.items()}
    if path.suffix == ".npy":
        write_whole(path, lambda file: np.save(file, next(iter(plain.values()))))
    else:
        write_whole(path, lambda file: _write_npz(file, plain))


def _named_arrays(values: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    for name, value in values.items():
        if isinstance(value, list):
            yield from _named_arrays({f"{name}[{k}]": item for k, item in enumerate(value)})
        elif value is not None:
            yield name, value


def check_suffix(path: Path, outputs: int) -> None:
    """Check that outputs can be written to a file of this name.

    Raises:
        InputError: they cannot.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(
            f"unknown suffix {path.suffix!r}", where=str(path), hint="name a .npz or .npy file"
        )
    if path.suffix == ".npy" and outputs != 1:
        raise InputError(
            f"a .npy file holds one array, the model gives {outputs}",
            where=str(path),
            hint="name a .npz file",
        )


def _write_npz(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write arrays under any name; ``numpy.savez`` refuses some, such as ``file``."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def _plain(array: Array) -> Array:
    """Return an array of a type that NumPy's file format knows."""
    if array.dtype == object:
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype.isbuiltin == 2 else array  # 2: a user type


def describe_value(name: str, value: Any) -> dict[str, Any]:
    """Return name, type, shape and range of an output as a JSON value; a sequence has a length."""
    if value is None:
        return {"name": name, "dtype": "none", "shape": []}
    if isinstance(value, list):
        return {"name": name, "dtype": "sequence", "shape": [len(value)]}
    return _describe_array(name, value)


def _describe_array(name: str, array: Array) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "dtype": "string" if array.dtype.kind == "O" else str(array.dtype),
        "shape": list(array.shape),
    }
    if array.size and array.dtype.kind not in "OSUM":
        wide = array.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        facts["not_finite"] = int(wide.size - finite.size)
        if finite.size:
            low, high, mean = finite.min(), finite.max(), finite.mean()
            facts |= {"min": float(low), "max": float(high), "mean": float(mean)}
    return facts


def difference(ours: Array, theirs: Array) -> float:
    """Return the largest difference of two arrays relative to the largest value of ``theirs``.

    Infinite where the shapes differ, NaN where one array holds a NaN.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.size:
        return 0.0
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    largest = float(np.max(np.abs(second)))
    return float(np.max(np.abs(first - second))) / (largest or 1.0)

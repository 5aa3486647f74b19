"""Calibration data: files, folders, images, arrays or a Python iterable become checked batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whet.array_files import load_arrays
from whet.dtypes import numpy_dtype
from whet.errors import InputError, WhetError, nearest
from whet.program.records import TensorSpec
from whet.quantize.images import IMAGE_SUFFIXES, ImageOptions, read_image
from whet.words import counted

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Array]
Source = str | os.PathLike[str] | Array | Iterable[Any] | Callable[[], Iterable[Any]]

LABELS = ("labels", "label")
"""Arrays of these names are what the metric compares with, unless the model has such an input."""

_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that run together.

    Attributes:
        feeds: an array for each input.
        labels: what is right, one a sample; ``None`` where that is not known.
        where: where the first of them came from.
        labelled: how many have a label.
    """

    feeds: dict[str, Array]
    labels: Array | None
    where: str
    labelled: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Samples that can be read again and again, in the same order.

    Attributes:
        source: what the user gave.
        specs: what the model takes.
        batch: samples a batch, where the model leaves that open.
        limit: most samples that are read; 0 for all.
        images: how images become inputs.
        name: what errors call data that has no path.
    """

    source: Source
    specs: tuple[TensorSpec, ...]
    batch: int = 8
    limit: int = 0
    images: ImageOptions = field(default_factory=ImageOptions)
    name: str = "calibration"

    def batches(self) -> Iterator[Batch]:
        """Yield batches of the size that the model takes; a rest that does not fill one is left.

        Raises:
            InputError: something cannot be read or does not fit the model, or there is nothing.
        """
        if not self.specs:
            raise InputError("the model has no inputs, nothing in it depends on data")
        size = self._batch_size()
        waiting: list[tuple[Sample, str]] = []
        count = made = 0
        for sample, where in self._samples():
            if self.limit and count >= self.limit:
                break
            count += 1
            if waiting and not _alike(waiting[0][0], sample):
                yield self._joined(waiting)
                made, waiting = made + 1, []
            waiting.append((sample, where))
            if len(waiting) == size:
                yield self._joined(waiting)
                made, waiting = made + 1, []
        if waiting and (self._open() or len(waiting) == size):
            yield self._joined(waiting)
            made += 1
        if not made:
            raise InputError(
                f"a batch of {size} is more than {counted(count, 'sample')}"
                if count
                else "there is no data",
                where=os.fspath(self.source)
                if isinstance(self.source, str | os.PathLike)
                else self.name,
                hint="let the function return a new iterator each time"
                if callable(self.source)
                else "give .npy, .npz or image files, or arrays",
            )

    def _open(self) -> bool:
        return all(spec.shape and isinstance(spec.shape[0], str) for spec in self.specs)

    def _batch_size(self) -> int:
        sizes = {s.shape[0] for s in self.specs if s.shape and isinstance(s.shape[0], int)}
        if len(sizes) > 1:
            raise InputError(
                f"the inputs have the first dimensions {sorted(sizes)}",
                hint="fix the shapes so that all inputs begin with the batch",
            )
        return sizes.pop() if sizes else self.batch

    def _joined(self, waiting: Sequence[tuple[Sample, str]]) -> Batch:
        feeds = {
            spec.name: np.ascontiguousarray(np.stack([s[spec.name] for s, _ in waiting]))
            for spec in self.specs
        }
        where = waiting[0][1]
        if LABELS[0] in feeds:  # the model has such an input
            return Batch(feeds, None, where)
        labels = [s[LABELS[0]] for s, _ in waiting if LABELS[0] in s]
        whole = len(labels) == len(waiting)
        return Batch(feeds, np.stack(labels) if whole else None, where, len(labels))

    def _samples(self) -> Iterator[tuple[Sample, str]]:
        """Yield samples without their batch dimension, and where each came from."""
        source = self.source
        if isinstance(source, str | os.PathLike):
            yield from self._of_path(Path(source))
        elif isinstance(source, np.ndarray | Mapping | tuple):
            yield from self._of_item(source, self.name)
        else:
            for number, item in enumerate(_items(source, self.name)):
                yield from self._of_item(item, f"{self.name} item {number}")

    def _of_path(self, path: Path) -> Iterator[tuple[Sample, str]]:
        if path.is_dir():
            yield from self._of_folder(path)
        elif path.suffix.lower() in _ARRAYS:
            yield from self._of_item(load_arrays(path), str(path))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield from self._of_image(path, None)
        else:
            reason = "unknown kind of file" if path.exists() else "no such file"
            raise InputError(reason, where=str(path), hint="give .npy, .npz, images or a folder")

    def _of_folder(self, path: Path) -> Iterator[tuple[Sample, str]]:
        """Yield what is in a folder, in the order of names; folders in it are classes of images."""
        known = (*_ARRAYS, *IMAGE_SUFFIXES)
        inside = _listed(path)
        for file in inside:
            if file.suffix.lower() in known and not file.is_dir():
                yield from self._of_path(file)
        for label, folder in enumerate(p for p in inside if p.is_dir()):
            for file in _listed(folder):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    yield from self._of_image(file, label)

    def _of_image(self, path: Path, label: int | None) -> Iterator[tuple[Sample, str]]:
        if len(self.specs) != 1:
            raise InputError(
                f"the model has {counted(len(self.specs), 'input')}, an image fills one",
                where=str(path),
                hint="give .npz files with an array for each input",
            )
        spec = self.specs[0]
        sample = {spec.name: _check(read_image(path, spec, self.images), spec, str(path))}
        if label is not None:
            sample[LABELS[0]] = np.asarray(label)
        yield sample, str(path)

    def _of_item(self, item: Any, where: str) -> Iterator[tuple[Sample, str]]:
        """Yield the samples of one array, of a mapping of arrays, or of inputs and labels."""
        arrays, labels = self._named(item, where)
        made = {s.name: _split(arrays[s.name], s, where) for s in self.specs}
        sizes = {name: len(array) for name, array in made.items()}
        if labels is not None:
            sizes[LABELS[0]] = len(labels)
        if len(set(sizes.values())) > 1:
            raise InputError(f"the arrays have different numbers of samples: {sizes}", where=where)
        for number in range(next(iter(sizes.values()))):
            sample = {n: np.asarray(array[number], array.dtype) for n, array in made.items()}
            yield (
                sample if labels is None else {**sample, LABELS[0]: labels[number]},
                f"{where}, sample {number}",
            )

    def _named(self, item: Any, where: str) -> tuple[dict[str, Array], Array | None]:
        names = [spec.name for spec in self.specs]
        labels: Any = None
        if isinstance(item, tuple) and len(item) == 2:
            item, labels = item
        if not isinstance(item, Mapping):
            if len(names) != 1:
                raise InputError(
                    f"the model has {counted(len(names), 'input')}: {', '.join(names)}",
                    where=where,
                    hint="give a mapping, or a .npz, with an array for each",
                )
            item = {names[0]: item}
        arrays = {str(name): np.asarray(value) for name, value in item.items()}
        given = next((n for n in LABELS if n in arrays and n not in names), None)
        labels = arrays.pop(given) if given else labels
        if len(names) == len(arrays) == 1:
            arrays = {names[0]: next(iter(arrays.values()))}
        for name in names:
            if name not in arrays:
                raise InputError(
                    f"the input {name!r} is missing", where=where, hint=nearest(name, arrays)
                )
        return arrays, None if labels is None else _labels(labels, where)


def _labels(given: Any, where: str) -> Array:
    try:
        return np.atleast_1d(np.asarray(given))
    except ValueError as error:
        raise InputError(
            f"labels are no array: {error}", where=where, hint="give labels of one shape"
        ) from error


def _items(source: Iterable[Any] | Callable[[], Iterable[Any]], name: str) -> Iterator[Any]:
    """Yield what an iterable or a function gives; what goes wrong in it is one clear error."""
    number = 0
    try:
        for item in source() if callable(source) else _again(source, name):
            yield item
            number += 1
    except WhetError:
        raise
    except Exception as error:
        raise InputError(
            f"the data fails: {type(error).__name__}: {error}",
            where=f"{name} item {number}",
            hint="give a list, or a function without arguments that returns an iterator",
        ) from error


def _again(source: Iterable[Any], name: str) -> Iterator[Any]:
    """Begin an iterable anew; an iterator can be read once only."""
    if not isinstance(source, Iterable):
        raise InputError(
            f"{type(source).__name__} is no calibration data",
            where=name,
            hint="give a path, an array, a list of arrays or a function that returns an iterator",
        )
    made = iter(source)
    if made is source:
        raise InputError(
            "an iterator can be read once, calibration may read several times",
            where=name,
            hint="give a list, or a function that returns a new iterator",
        )
    return made


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder by name, without what systems hide there, such as ``._a.png``."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"cannot read the folder: {error.strerror or error}", where=str(folder)
        ) from error


def _split(array: Array, spec: TensorSpec, where: str) -> Array:
    """Return an array whose first axis counts samples; one sample may come without that axis."""
    rank = len(spec.shape)
    if not rank:
        raise InputError("the model has an input without dimensions", where=spec.name)
    if array.ndim == rank - 1:
        array = array[None]
    if array.ndim == rank + 1:
        array = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    if array.ndim == rank:
        return _check(array, spec, where, batched=True)
    return _check(array[None], spec, where, batched=True)


def _check(array: Array, spec: TensorSpec, where: str, *, batched: bool = False) -> Array:
    """Check type, shape and values of one sample or a batch of them, and convert the type."""
    shape = array.shape[1:] if batched else array.shape
    wanted = spec.shape[1:]
    fits = len(shape) == len(wanted) and all(
        isinstance(w, str) or w == n for n, w in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise InputError(
            f"a sample has the shape {list(shape)}, {spec.name!r} takes {list(wanted)}",
            where=where,
            hint="the first dimension of an array counts samples",
        )
    return _converted(array, spec, where)


def _converted(array: Array, spec: TensorSpec, where: str) -> Array:
    """Return an array in the type of an input, which has to hold every number."""
    dtype = numpy_dtype(spec.dtype)
    kinds = {"f": "fiub", "V": "fiub", "i": "iub", "u": "iub", "b": "b", "O": "OU"}.get(
        dtype.kind, dtype.kind
    )
    if array.dtype != dtype and array.dtype.kind not in kinds:
        raise InputError(
            f"the type is {array.dtype}, {spec.name!r} takes {spec.dtype}",
            where=where,
            hint=f"convert the array to {spec.dtype}",
        )
    with np.errstate(over="ignore"):
        made = array.astype(dtype, copy=False)
    if dtype.kind == "O":
        return made
    whole = dtype.kind in "iu"
    bad = int(np.size(made) - (made == array if whole else np.isfinite(made)).sum())
    if bad and array.dtype.kind in "iub":
        raise InputError(
            f"numbers that do not fit in {spec.dtype}: {bad} of {array.size}", where=where
        )
    if bad:
        raise InputError(
            f"numbers that are NaN or infinite in {spec.dtype}: {bad} of {array.size}",
            where=where,
            hint="leave such samples out",
        )
    return made


def array_bytes(array: Array) -> bytes:
    """Return what a hash of an array is made of; texts lie elsewhere, the array points to them."""
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _alike(a: Sample, b: Sample) -> bool:
    return all(a[name].shape == b[name].shape for name in a if name in b)

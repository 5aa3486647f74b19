"""Functions of the script on texts; arrays of texts are NumPy arrays of Python strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.errors import ShapeError
from whet.program.script import Call
from whet.words import counted

Values = list[Any]


def _array(texts: Sequence[Any], shape: tuple[int, ...]) -> Any:
    found = np.empty(len(texts), dtype=object)
    found[:] = list(texts)
    return found.reshape(shape)


def _both(step: Call, inputs: Values) -> tuple[Any, Any]:
    try:
        one, other = np.broadcast_arrays(inputs[0], inputs[1])
    except ValueError as error:
        raise ShapeError(str(error), where=step.where) from error
    return one, other


def constant(step: Call, inputs: Values) -> Values:
    """Return texts that the model holds."""
    settings: dict[str, Any] = dict(step.settings)
    return [_array(settings["texts"], tuple(settings["shape"]))]


def join_pairs(step: Call, inputs: Values) -> Values:
    """Return each text of one array followed by that of another."""
    one, other = _both(step, inputs)
    pairs = zip(one.reshape(-1), other.reshape(-1), strict=True)
    return [_array([a + b for a, b in pairs], one.shape)]


def equal(step: Call, inputs: Values) -> Values:
    """Return where two arrays hold the same texts."""
    one, other = _both(step, inputs)
    pairs = zip(one.reshape(-1), other.reshape(-1), strict=True)
    return [np.array([a == b for a, b in pairs], bool).reshape(one.shape)]


def match(step: Call, inputs: Values) -> Values:
    """Return which texts a regular expression describes as a whole."""
    pattern = str(dict(step.settings).get("pattern", ""))
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ShapeError(f"{pattern!r} is no pattern: {error}", where=step.where) from error
    found = [wanted.fullmatch(text) is not None for text in inputs[0].reshape(-1)]
    return [np.array(found, bool).reshape(inputs[0].shape)]


def split(step: Call, inputs: Values) -> Values:
    """Return the words of every text, padded with empty ones, and how many there are."""
    settings = dict(step.settings)
    delimiter, most = str(settings.get("delimiter", "")), int(str(settings.get("maxsplit", -1)))
    parts = [text.split(delimiter or None, most) for text in inputs[0].reshape(-1)]
    longest = max((len(p) for p in parts), default=0)
    padded = [word for p in parts for word in [*p, *[""] * (longest - len(p))]]
    shape = inputs[0].shape
    counts = np.array([len(p) for p in parts], np.int64).reshape(shape)
    return [_array(padded, (*shape, longest)), counts]


def normalize(step: Call, inputs: Values) -> Values:
    """Return texts in one case, without stop words."""
    settings = dict(step.settings)
    sensitive = bool(settings.get("is_case_sensitive", 0))
    action = settings.get("case_change_action", "NONE")
    words = settings.get("stopwords", ())
    assert isinstance(words, tuple), "stop words are a list"
    stop = {str(w) if sensitive else str(w).lower() for w in words}
    array = inputs[0]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] != 1):
        raise ShapeError(f"texts of shape {array.shape}, not [C] or [1, C]", where=step.where)
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(str(action), str)
    kept = [t for t in array.reshape(-1) if (t if sensitive else t.lower()) not in stop]
    kept = [change(t) for t in kept] or [""]
    return [_array(kept, (len(kept),) if array.ndim == 1 else (1, len(kept)))]


def concatenate(step: Call, inputs: Values) -> Values:
    """Return arrays of texts one after another."""
    axis = int(str(dict(step.settings)["axis"]))
    try:
        return [np.concatenate(inputs, axis=axis)]
    except ValueError as error:
        raise ShapeError(str(error), where=step.where) from error


def reshape(step: Call, inputs: Values) -> Values:
    """Return texts in another shape; 0 copies an extent, -1 takes what is left."""
    array, target = inputs[0], [int(v) for v in inputs[1]]
    if not dict(step.settings).get("allowzero", 0):
        target = [array.shape[k] if v == 0 else v for k, v in enumerate(target)]
    try:
        return [array.reshape(target)]
    except (ValueError, IndexError) as error:
        raise ShapeError(str(error), where=step.where) from error


def gather(step: Call, inputs: Values) -> Values:
    """Return texts by position along an axis."""
    try:
        return [np.take(inputs[0], inputs[1], axis=int(str(dict(step.settings).get("axis", 0))))]
    except IndexError as error:
        raise ShapeError(str(error), where=step.where) from error


# -- counts of word groups -------------------------------------------------------------------------


def tfidf(step: Call, inputs: Values) -> Values:
    """Return how often groups of words (n-grams) occur in each row, perhaps weighted."""
    settings: dict[str, Any] = dict(step.settings)
    pool = settings.get("pool_strings") or settings.get("pool_int64s") or ()
    index = settings["ngram_indexes"]
    groups = _groups(pool, settings["ngram_counts"])
    weighted = settings.get("weights") or index
    if min(len(index), len(weighted)) < len(groups) or min(index, default=0) < 0:
        text = (
            f"{counted(len(groups), 'group')} of words, {counted(len(index), 'place')} and "
            f"{counted(len(weighted), 'weight')}"
        )
        raise ShapeError(text, where=step.where, hint="give each group a place of 0 or more")
    width = max(index, default=-1) + 1
    places = {group: index[k] for k, group in enumerate(groups)}
    array = inputs[0]
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    counts = np.zeros((len(rows), width), np.float32)
    for row, found in zip(rows.tolist(), counts, strict=True):
        for group in _seen(row, settings):
            if group in places:
                found[places[group]] += 1
    weights = np.ones(width, np.float32)
    if settings.get("weights"):
        for k, _ in enumerate(groups):
            weights[index[k]] = settings["weights"][k]
    mode = settings["mode"]
    result = counts if mode == "TF" else (counts > 0).astype(np.float32)
    if mode in ("IDF", "TFIDF"):
        result = (result if mode == "IDF" else counts) * weights
    return [result.reshape((*array.shape[:-1], width))]


def _groups(pool: Sequence[Any], starts: Sequence[int]) -> list[tuple[Any, ...]]:
    """Cut the pool into groups of one word, of two words and so on."""
    groups: list[tuple[Any, ...]] = []
    ends = [*starts[1:], len(pool)]
    for size, (begin, end) in enumerate(zip(starts, ends, strict=True), start=1):
        groups += [tuple(pool[k : k + size]) for k in range(begin, end, size)]
    return groups


def _seen(row: Sequence[Any], settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the groups of a row, of all lengths and with all distances that count."""
    found: list[tuple[Any, ...]] = []
    least, most = settings["min_gram_length"], settings["max_gram_length"]
    for distance in range(1, settings["max_skip_count"] + 2):
        for size in range(least, most + 1):
            if size == 1 and distance > 1:
                continue
            reach = distance * (size - 1)
            for begin in range(len(row) - reach):
                found.append(tuple(row[begin : begin + reach + 1 : distance]))
    return found

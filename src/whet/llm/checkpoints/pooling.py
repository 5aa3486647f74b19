"""How the vectors of a text's tokens become one, as ``modules.json`` of sentence-transformers says.

Its modules are a transformer, a pooling and perhaps a norm; others are refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from whet.errors import ModelError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import read_json

Pooling = Literal["mean", "cls", "max", "last"]

_POOLINGS: tuple[tuple[str, Pooling], ...] = (
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_lasttoken", "last"),
    ("pooling_mode_mean_tokens", "mean"),
)
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Pooled:
    """How the vectors of tokens become one.

    Attributes:
        how: mean or maximum over tokens, or the first or last one's.
        normalised: whether vectors are scaled to length 1.
    """

    how: Pooling = "mean"
    normalised: bool = False


def pooled_of(folder: Path, default: Pooled) -> Pooled:
    """Return what a checkpoint says of pooling; ``default`` where it says nothing.

    Raises:
        UnsupportedError: it has a pooling or a module that is not known.
        ModelError: a file is damaged.
    """
    kinds = _modules(folder / "modules.json")
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return Pooled(default.how, "Normalize" in kinds) if kinds else default
    facts = read_json(path)
    modes = [key for key, value in facts.items() if key.startswith("pooling_mode_") and value]
    known = [name for key, name in _POOLINGS if key in modes]
    if len(modes) > 1 or (modes and not known):
        what = " and ".join(modes)
        raise UnsupportedError(what, where=str(path), hint="mean, cls, max or last token, one")
    how = known[0] if known else _named(facts.get("pooling_mode"), path)
    return Pooled(how, normalised="Normalize" in kinds)


def makes_vectors(folder: Path) -> bool:
    """Tell whether a folder says how to make vectors of texts."""
    return "Pooling" in _modules(folder / "modules.json")


def pool(states: Array, mask: Array, how: Pooling) -> Array:
    """Return a vector for each text, given states [text, token, element] and which tokens count."""
    if how == "cls":
        return np.asarray(states[:, 0])
    if how == "last":
        return np.asarray(states[np.arange(len(states)), mask.sum(1) - 1])
    if how == "max":
        return np.asarray(np.where(mask[:, :, None], states, -np.inf).max(1))
    weights = mask[:, :, None].astype(np.float32)
    return np.asarray((states * weights).sum(1) / weights.sum(1))


def unit(vectors: Array) -> Array:
    """Return vectors scaled to length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def _modules(path: Path) -> list[str]:
    """Return the kinds of the modules, none where no file lists them."""
    if not path.exists():
        return []
    try:
        kinds = [str(one["type"]).rsplit(".", 1)[-1] for one in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"it lists no modules: {error!r}"[:300], where=str(path)) from error
    other = [kind for kind in kinds if kind not in _MODULES]
    if other:
        hint = f"known: {', '.join(_MODULES)}"
        raise UnsupportedError(f"the module {other[0]!r}", where=str(path), hint=hint)
    return kinds


def _named(mode: object, path: Path) -> Pooling:
    for _, name in _POOLINGS:
        if mode == name or (mode in ("lasttoken", f"{name}_token") and name == "last"):
            return name
    raise UnsupportedError(f"pooling {mode!r}", where=str(path), hint="mean, cls, max and last")

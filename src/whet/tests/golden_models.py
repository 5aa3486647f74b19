"""Tiny language models with seeded weights, and what ``transformers`` makes of them in float64.

``data/llm_goldens.json`` holds configurations, names and shapes, ``data/llm_goldens.npz`` logits
and tokens; ``python scripts/write_llm_goldens.py`` writes both. So every family is checked where
``transformers`` is not installed.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.llm.checkpoints.checkpoint import TensorFolder

DATA = Path(__file__).parent / "data"
PROMPT, NEW = 40, 200
PLACES = (0, PROMPT - 1, 120, PROMPT + NEW - 2)
"""Positions of the logits that are kept."""

Arrays = dict[str, np.ndarray]
Write = Callable[[str], tuple[dict[str, Any], Arrays]]


@dataclass(frozen=True, slots=True)
class Golden:
    """One model and its reference.

    Attributes:
        config: what ``config.json`` holds.
        shapes: shapes of its tensors by name.
        seed: of the weights and the prompt.
        tokens: the prompt and 200 greedy tokens.
        logits: of the positions ``PLACES``.
    """

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    seed: int
    tokens: np.ndarray
    logits: np.ndarray


def golden_names() -> list[str]:
    """Return the names of all models."""
    return sorted(json.loads((DATA / "llm_goldens.json").read_text()))


def golden(name: str) -> Golden:
    """Return a model and its reference."""
    facts = json.loads((DATA / "llm_goldens.json").read_text())[name]
    shapes = {n: tuple(s) for n, s in facts["shapes"].items()}
    with np.load(DATA / "llm_goldens.npz") as arrays:
        tokens, logits = arrays[f"{name}.tokens"], arrays[f"{name}.logits"]
    return Golden(facts["config"], shapes, facts["seed"], tokens, logits)


def facts_of(model: Any) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return configuration and shapes of a model of ``transformers``, as a checkpoint has them."""
    with tempfile.TemporaryDirectory() as folder:
        model.float().save_pretrained(folder)
        found = TensorFolder(folder)
        facts = {k: v for k, v in found.config.values.items() if v is not None}
        facts.pop("transformers_version", None)
        return facts, {n: found.shape(n) for n in sorted(found.names)}


def write_goldens(kind: str, names: list[str], write: Write, common: Arrays | None = None) -> None:
    """Write facts and arrays of some models beside those that the files of a kind hold already.

    Args:
        kind: what the names of both files begin with.
        names: the models.
        write: makes facts and arrays of one.
        common: arrays that belong to no model.
    """
    texts, numbers = DATA / f"{kind}_goldens.json", DATA / f"{kind}_goldens.npz"
    facts = json.loads(texts.read_text()) if texts.exists() else {}
    arrays = dict(np.load(numbers)) if numbers.exists() else {}
    arrays |= common or {}
    for name in names:
        facts[name], more = write(name)
        arrays |= more
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(facts[n])}" for n in sorted(facts))
    texts.write_text("{\n" + lines + "\n}\n")
    np.savez_compressed(numbers, **{k: arrays[k] for k in sorted(arrays)})


def weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return seeded weights; ``RandomState``, whose numbers are promised to stay."""
    found: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState([seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape) * (0.08 if len(shape) > 1 else 0.1)
        if len(shape) == 1 and name.endswith("weight"):
            values += 1  # norms
        found[name] = values.astype(np.float32)
    return found


def prompt(seed: int, vocabulary: int) -> list[int]:
    """Return a seeded prompt."""
    return [int(t) for t in np.random.RandomState(seed).randint(0, vocabulary, PROMPT)]


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    header, data = {}, b""
    for name, array in tensors.items():
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_golden(folder: Path, found: Golden) -> Path:
    """Write the checkpoint of a model."""
    (folder / "config.json").write_text(json.dumps(found.config))
    write_tensors(folder / "model.safetensors", weights(found.shapes, found.seed))
    return folder

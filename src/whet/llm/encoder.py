"""Encoders: texts to vectors, and how well texts answer a question.

BERT (and MiniLM, E5, BGE and others of its make), RoBERTa and XLM-RoBERTa. A batch of texts is
padded to its longest; what is padding is masked, so that a vector does not depend on the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from whet.driver import compile as compile_model
from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoint import TensorFolder, read_json
from whet.llm.encoder_graph import ENCODERS, encoder_graph, encoder_shape
from whet.llm.tokens import Tokenizer, open_tokenizer
from whet.options import Options

Pooling = Literal["mean", "cls", "max", "last"]

_POOLINGS: tuple[tuple[str, Pooling], ...] = (
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_lasttoken", "last"),
    ("pooling_mode_mean_tokens", "mean"),
)


@dataclass(frozen=True, slots=True)
class Pooled:
    """How the vectors of tokens become one: read from the checkpoint, where it says so.

    Attributes:
        how: mean or maximum over tokens, or the first or last one's.
        normalised: whether vectors are scaled to length 1.
    """

    how: Pooling = "mean"
    normalised: bool = False


class Encoder:
    """An encoder ready to run.

    Args:
        path: a folder with ``config.json``, ``tokenizer.json`` and ``*.safetensors``.
        options: how to compile.
        batch_tokens: tokens of a step, padding included; more texts take several steps.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        options: Options | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        folder = Path(path)
        checkpoint = TensorFolder(folder)
        self.tokenizer = open_tokenizer(folder)
        self.shape = encoder_shape(checkpoint)
        self.pooled = _pooled(folder)
        self.batch_tokens = batch_tokens
        self._model = compile_model(encoder_graph(self.shape, checkpoint), options=options)

    @property
    def context(self) -> int:
        """Tokens that a text may have."""
        return self.shape.context

    def embed(self, texts: Sequence[str | Sequence[int]]) -> Array:
        """Return a vector for each text, float32 of shape (texts, width).

        Raises:
            InputError: a text has no tokens, or more than the context.
        """
        tokens = [self.tokens(text) for text in texts]
        found = np.zeros((len(tokens), self.shape.hidden), np.float32)
        for rows, states, mask in self._run(tokens, "states"):
            found[rows] = _pool(states, mask, self.pooled.how)
        if self.pooled.normalised:
            found /= np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        return found

    def rerank(self, query: str, texts: Sequence[str]) -> Array:
        """Return a score for each text, greater where it answers the query better.

        Raises:
            UnsupportedError: the checkpoint has no head for scores.
            InputError: query and text together have more tokens than the context.
        """
        if not self.shape.labels:
            raise UnsupportedError(
                "the checkpoint has no classifier", hint="use one made for reranking"
            )
        pairs = [self.pair(query, text) for text in texts]
        found = np.zeros((len(pairs), self.shape.labels), np.float32)
        for rows, scores, _ in self._run([t for t, _ in pairs], "scores", [k for _, k in pairs]):
            found[rows] = scores
        return found[:, -1]

    def tokens(self, text: str | Sequence[int]) -> list[int]:
        """Return the tokens of a text, checked."""
        found = self._text().encode(text) if isinstance(text, str) else [int(t) for t in text]
        return self._checked(found)

    def pair(self, query: str, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a query and a text, and to which of the two each belongs."""
        coded = self._text().pair(query, text)
        return self._checked(list(coded.ids)), list(coded.type_ids)

    def _checked(self, tokens: list[int]) -> list[int]:
        if not 0 < len(tokens) <= self.context:
            raise InputError(
                f"a text has {len(tokens)} tokens, the model takes 1 to {self.context}",
                hint="shorten the text",
            )
        wrong = [t for t in tokens if not 0 <= t < self.shape.vocabulary]
        if wrong:
            raise InputError(f"a text has token {wrong[0]}", hint="the model does not know it")
        return tokens

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(
                "the checkpoint has no tokenizer.json", hint="give tokens instead of text"
            )
        return self.tokenizer

    def _run(
        self, texts: Sequence[list[int]], output: str, kinds: Sequence[list[int]] | None = None
    ) -> list[tuple[list[int], Array, Array]]:
        """Run texts of about the same length together; return rows, results and masks."""
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        found = []
        while order:
            width = len(texts[order[-1]])
            rows = [order.pop() for _ in range(min(len(order), max(self.batch_tokens // width, 1)))]
            ids, types = np.zeros((2, len(rows), width), np.int64)
            mask = np.zeros((len(rows), width), np.bool_)
            for line, row in enumerate(rows):
                length = len(texts[row])
                ids[line, :length], mask[line, :length] = texts[row], True
                if kinds is not None:
                    types[line, :length] = kinds[row]
            places = np.where(mask, np.arange(width) + self.shape.first_position, 0)
            inputs = {"ids": ids, "types": types, "positions": places, "mask": mask}
            found.append((rows, self._model.run(inputs)[output], mask))
        return found


def _pool(states: Array, mask: Array, how: Pooling) -> Array:
    if how == "cls":
        return np.asarray(states[:, 0])
    if how == "last":
        return np.asarray(states[np.arange(len(states)), mask.sum(1) - 1])
    if how == "max":
        return np.asarray(np.where(mask[:, :, None], states, -np.inf).max(1))
    weights = mask[:, :, None].astype(np.float32)
    return np.asarray((states * weights).sum(1) / weights.sum(1))


def _pooled(folder: Path) -> Pooled:
    """Return what ``modules.json`` of sentence-transformers says, else the mean."""
    path = folder / "1_Pooling" / "config.json"
    how: Pooling = "mean"
    if path.exists():
        facts = read_json(path)
        chosen = [name for key, name in _POOLINGS if facts.get(key)]
        mode = facts.get("pooling_mode")
        how = chosen[0] if chosen else _named(mode, path)
    modules = folder / "modules.json"
    text = modules.read_text(encoding="utf-8") if modules.exists() else ""
    return Pooled(how, normalised="Normalize" in text)


def _named(mode: object, path: Path) -> Pooling:
    for _, name in _POOLINGS:
        if mode == name or (mode in ("lasttoken", f"{name}_token") and name == "last"):
            return name
    raise UnsupportedError(f"pooling {mode!r}", where=str(path), hint="mean, cls, max and last")


def is_encoder(path: Path) -> bool:
    """Tell whether a folder holds an encoder."""
    file = path / "config.json"
    return file.exists() and read_json(file).get("model_type") in ENCODERS

"""Encoders: texts to vectors, and how well texts answer a question.

BERT (and MiniLM, E5, BGE and others of its make), RoBERTa and XLM-RoBERTa. A batch of texts is
padded to its longest; what is padding is masked, so that a vector does not depend on the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whet.driver import compile as compile_model
from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import TensorFolder, read_json
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.pooling import Pooled, pool, pooled_of, unit
from whet.llm.checkpoints.tokens import Tokenizer, open_tokenizer
from whet.llm.graphs.encoder_graph import ENCODERS, encoder_graph, encoder_shape
from whet.options import Options
from whet.words import counted

Pair = tuple[list[int], list[int]]


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
        self.pooled = pooled_of(folder, Pooled())
        self.squashed = _is_squashed(checkpoint.config, self.shape.labels)
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
            found[rows] = pool(states, mask, self.pooled.how)
        return unit(found) if self.pooled.normalised else found

    def rerank(self, query: str, texts: Sequence[str]) -> Array:
        """Return a score for each text, greater where it answers the query better.

        Raises:
            UnsupportedError: the checkpoint has no head for scores.
            InputError: query and text together have more tokens than the context.
        """
        return self.scores([self.pair(query, text) for text in texts])

    def scores(self, pairs: Sequence[Pair]) -> Array:
        """Return the scores of pairs: between 0 and 1, unless the checkpoint has it otherwise.

        Raises:
            UnsupportedError: the checkpoint has no head for scores.
        """
        if not self.shape.labels:
            raise UnsupportedError(
                "the checkpoint has no classifier", hint="use one made for reranking"
            )
        found = np.zeros((len(pairs), self.shape.labels), np.float32)
        for rows, scores, _ in self._run([t for t, _ in pairs], "scores", [k for _, k in pairs]):
            found[rows] = scores
        last = found[:, -1]
        return np.asarray(1 / (1 + np.exp(-last)), np.float32) if self.squashed else last

    def tokens(self, text: str | Sequence[int]) -> list[int]:
        """Return the tokens of a text, checked."""
        found = self._text().encode(text) if isinstance(text, str) else [int(t) for t in text]
        return self._checked(found)

    def pair(self, query: str, text: str) -> Pair:
        """Return the tokens of a query and a text, and to which of the two each belongs.

        A RoBERTa does not tell them apart: all are of the first, whatever its tokenizer says.
        """
        coded = self._text().pair(query, text)
        kinds = np.minimum(coded.type_ids, self.shape.kinds - 1)
        return self._checked(list(coded.ids)), kinds.tolist()

    def _checked(self, tokens: list[int]) -> list[int]:
        if not 0 < len(tokens) <= self.context:
            raise InputError(
                f"a text has {counted(len(tokens), 'token')}, the model takes 1 to {self.context}",
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


def _is_squashed(config: Config, labels: int) -> bool:
    """Tell whether scores go through a sigmoid, as sentence-transformers does with a single one."""
    old = config.text("sbert_ce_default_activation_function", "")
    named = config.nested("sentence_transformers").text("activation_fn", old)
    return named.endswith("Sigmoid") or (not named and labels == 1)


def is_encoder(path: Path) -> bool:
    """Tell whether a folder holds an encoder."""
    file = path / "config.json"
    return file.exists() and read_json(file).get("model_type") in ENCODERS

"""Decoders that make vectors of texts, such as Qwen 3 Embedding, GTE-Qwen2 or E5-Mistral."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from whet.errors import InputError, UnsupportedError
from whet.kernel.paged import PAGE
from whet.llm.architecture import Array
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.pooling import Pooled, Pooling, pooled_of
from whet.llm.compiler import Compiler
from whet.llm.engine.embedding import LAST, States
from whet.llm.engine.program import StepProgram
from whet.llm.engine.scheduler import Limits
from whet.llm.families.vision_table import model_of
from whet.llm.prompts import PromptReader
from whet.llm.source import Source
from whet.options import Options
from whet.words import counted

_GGUF_POOLINGS: Mapping[object, Pooling] = {1: "mean", 2: "cls", 3: "last"}


class Embedder:
    """A decoder without its head, ready to make vectors.

    Pooling and scaling are what ``modules.json`` and ``1_Pooling``, or a GGUF file, say, else the
    state behind the last token, scaled to length 1.

    Args:
        source: a checkpoint folder or a GGUF file; a ``Source`` also says in which numbers it is.
        options: how to compile.
        context: tokens that a text may have, and one more; by default at most 4096.
        limits: tokens of a step, and texts that run at once; its context is not looked at.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family, or its pooling, is not known.
        InputError: the model was not made for such a context.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        options: Options | None = None,
        context: int = 0,
        limits: Limits | None = None,
    ) -> None:
        opened = source if isinstance(source, Source) else Source(source)
        found, tokenizer = opened.open()
        model = model_of(found)
        arch = model.architecture
        given = limits or Limits()
        chosen = Limits(given.step_tokens, given.sequences, arch.checked_context(context))
        self.pooled = _pooled(Path(opened.path), found.config)
        self.context = chosen.context
        self._reader = PromptReader(tokenizer, arch.vocabulary, None)
        pages = -(-max(chosen.step_tokens, chosen.context) // PAGE) + chosen.sequences
        program = Compiler(model, opened, chosen.context, options).decoder(states=True)
        self._states = States(StepProgram(program, arch, pages), pages, chosen, self.pooled)

    def tokens(self, text: str | Sequence[int]) -> list[int]:
        """Return the tokens of a text, checked."""
        found = self._reader.tokens(text)
        if not 0 < len(found) < self.context:
            raise InputError(
                f"a text has {counted(len(found), 'token')}, "
                f"the model takes 1 to {self.context - 1}",
                hint="shorten the text, or load the model with a larger context",
            )
        return found

    def embed(self, texts: Sequence[str | Sequence[int]]) -> Array:
        """Return a vector for each text, float32 of shape (texts, width).

        Raises:
            InputError: a text has no tokens, too many, or unknown ones.
        """
        return self._states.embed([self.tokens(text) for text in texts])

    def pair(self, query: str, text: str) -> tuple[list[int], list[int]]:
        """Refuse: a decoder has no head that ranks."""
        raise UnsupportedError("a decoder ranks no texts", hint="use an encoder made for reranking")

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Array:
        """Refuse: a decoder has no head that ranks."""
        raise UnsupportedError("a decoder ranks no texts", hint="use an encoder made for reranking")


def _pooled(path: Path, config: Config) -> Pooled:
    kind = _GGUF_POOLINGS.get(config.values.get("pooling_type"), LAST.how)
    default = Pooled(kind, normalised=True)
    return pooled_of(path, default) if path.is_dir() else default

"""llama.cpp on a GGUF file, through the package ``llama-cpp-python``, to measure beside Whet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from whet.errors import ModelError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.engine.program import Span


class LlamaCpp:
    """A model in llama.cpp, run step by step as ``StepProgram`` is.

    Args:
        path: a GGUF file.
        threads: threads for prompts and for single tokens.
        context: tokens that all sequences together may have.
        sequences: sequences that run at once.
        step_tokens: most tokens of a step.

    Raises:
        UnsupportedError: ``llama-cpp-python`` is not installed.
        ModelError: llama.cpp refuses the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int,
        *,
        context: int,
        sequences: int = 1,
        step_tokens: int = 512,
    ) -> None:
        lib, _ = _library()
        self._lib = lib
        self._model = lib.llama_model_load_from_file(
            os.fsencode(path), lib.llama_model_default_params()
        )
        if not self._model:
            raise ModelError("llama.cpp cannot load the model", where=str(path))
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, step_tokens, step_tokens
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.kv_unified = sequences, True
        self._context = lib.llama_init_from_model(self._model, params)
        self._batch = lib.llama_batch_init(step_tokens, 0, 1)
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))

    def clear(self) -> None:
        """Forget all keys and values."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def run(self, spans: Sequence[Span]) -> Array:
        """Run one step; return the logits asked for, span by span, in order.

        Raises:
            ModelError: llama.cpp refuses the step.
        """
        batch, count, wanted = self._batch, 0, []
        for sequence, span in enumerate(spans):
            for k, token in enumerate(span.tokens):
                batch.token[count], batch.pos[count] = token, span.start + k
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                logits = k >= len(span.tokens) - span.logits
                batch.logits[count] = int(logits)
                wanted.extend([count] if logits else [])
                count += 1
        batch.n_tokens = count
        code = self._lib.llama_decode(self._context, batch)
        if code:
            raise ModelError(f"llama.cpp gave {code} for a step of {count} tokens")
        return np.array([self._logits(k) for k in wanted])

    def _logits(self, place: int) -> Array:
        found = self._lib.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(found, (self._vocabulary,)).copy()

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *failure: object) -> None:
        """Free the model."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)


@cache
def _library() -> tuple[Any, Any]:
    """Return the package, silenced; C holds on to the callback, as the cache does."""
    try:
        import llama_cpp
    except ImportError as error:
        raise UnsupportedError(
            "the package llama-cpp-python is not installed", hint="pip install llama-cpp-python"
        ) from error

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def drop(level: int, text: bytes, user: object) -> None:
        """Say nothing."""

    llama_cpp.llama_log_set(drop, None)
    llama_cpp.llama_backend_init()
    return llama_cpp, drop

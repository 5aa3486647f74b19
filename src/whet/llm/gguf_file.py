"""GGUF files: one file with tensors in blocks of few bits, facts about the model, and a tokenizer.

Tensors are dequantised exactly as the package ``gguf`` does. Facts and names become those of
``config.json`` and of safetensors folders, so that the families are the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from whet.errors import ModelError, UnsupportedError
from whet.kernel.block_formats import FORMATS
from whet.llm.architecture import Array
from whet.llm.checkpoint import missing
from whet.llm.config import Config
from whet.llm.gguf_tokens import gguf_tokenizer
from whet.llm.tokens import Tokenizer

_HINT = "download the file again"

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "llama": "llama",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
        "phi3": "phi3",
        "gemma2": "gemma2",
        "gemma3": "gemma3_text",
    }
)
"""Families by the name that GGUF has for them."""

TYPES = frozenset(
    ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
)

_KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}

_MODEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_GEMMA_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


_SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


class GgufFile:
    """A GGUF file as a checkpoint.

    Args:
        path: the file.
        floats: whether tensors in blocks of few bits are only given as floats.

    Raises:
        ModelError: the file is truncated or malformed.
        UnsupportedError: the family or a tensor's type is not known, or ``gguf`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, floats: bool = False) -> None:
        self.path = Path(path)
        self._floats = floats
        reader = _reader(self.path)
        self._facts = {name: _contents(field) for name, field in reader.fields.items()}
        family = str(self._facts.get("general.architecture", ""))
        if family not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise UnsupportedError(
                f"the model is of family {family!r}", where=str(path), hint=f"known: {known}"
            )
        self._tensors = {_name(t.name, family): t for t in reader.tensors}
        for tensor in reader.tensors:
            if tensor.tensor_type.name not in TYPES:
                raise UnsupportedError(
                    f"tensor {tensor.name!r} has type {tensor.tensor_type.name}", where=str(path)
                )
        self.config = Config(self._values(family), str(path))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, the outermost dimension first."""
        return tuple(int(n) for n in reversed(self._find(name).shape))

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        from gguf.quants import dequantize

        found = self._find(name)
        flat = dequantize(found.data, found.tensor_type)
        return np.asarray(flat, np.float32).reshape(self.shape(name))

    def block_format(self, name: str) -> str | None:
        """Return the format that a matrix is stored in, if its blocks are to be kept."""
        kind = str(self._find(name).tensor_type.name)
        return kind if kind in FORMATS and len(self.shape(name)) == 2 and not self._floats else None

    def blocks(self, name: str) -> Array:
        """Return the bytes of a tensor in blocks, row by row; a view of the file."""
        return np.asarray(self._find(name).data).reshape(self.shape(name)[0], -1)

    def order(self, name: str) -> Array | None:
        """Return ``None``: rows lie in blocks as they are."""
        return None

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that the file holds, ``None`` if it holds none."""
        return gguf_tokenizer(self._facts, str(self.path))

    def _find(self, name: str) -> Any:
        found = self._tensors.get(name)
        if found is None:
            raise missing(name, self._tensors, str(self.path))
        return found

    def _values(self, family: str) -> dict[str, Any]:
        """Return the facts with the names that ``config.json`` has for them."""
        facts = self._facts
        values = {
            ours: facts[f"{family}.{theirs}"]
            for theirs, ours in _KEYS.items()
            if f"{family}.{theirs}" in facts
        }
        embedding = self._tensors.get("model.embed_tokens.weight")
        scaling = facts.get(f"{family}.rope.scaling.type", "none")
        if scaling != "none" or "rope_factors_long.weight" in self._tensors:
            values["rope_scaling"] = self._scaling(family, scaling)
        if "rope_freqs.weight" in self._tensors:
            values["rope_divisors"] = self.tensor("rope_freqs.weight").tolist()
        return {
            **values,
            "model_type": FAMILIES[family],
            "vocab_size": 0 if embedding is None else int(embedding.shape[-1]),
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self._tensors,
            "rope_interleaved": family == "llama",
            "norms_are_whole": True,
        }

    def _scaling(self, family: str, kind: str) -> dict[str, Any]:
        """Return how rotary positions are scaled; Phi-3's two lists of divisors are tensors."""
        place = f"{family}.rope.scaling"
        found = {
            ours: self._facts[f"{place}.{theirs}"]
            for theirs, ours in _SCALING.items()
            if f"{place}.{theirs}" in self._facts
        }
        if "rope_factors_long.weight" not in self._tensors:
            if kind == "yarn" and "attention_factor" in found:  # a factor of the usual one there
                found["attention_factor"] *= 0.1 * math.log(max(found.get("factor", 1.0), 1.0)) + 1
            return {"rope_type": kind, **found}
        lists = {k: self.tensor(f"rope_factors_{k}.weight").tolist() for k in ("short", "long")}
        return {"rope_type": "longrope", **found, **{f"{k}_factor": v for k, v in lists.items()}}


def _reader(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UnsupportedError(
            "the package gguf is not installed", hint="pip install 'whet[llm]'"
        ) from error
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise ModelError("the file is missing", where=str(path), hint="check the path") from error
    except Exception as error:  # the package raises whatever NumPy and Python do
        raise ModelError(
            f"the file is truncated or malformed: {error}"[:300], where=str(path), hint=_HINT
        ) from error


def _contents(field: Any) -> Any:
    try:
        return field.contents()
    except Exception:  # noqa: BLE001 - a fact that cannot be read is missing where it is needed
        return None


def _name(name: str, family: str) -> str:
    """Return what a safetensors folder calls a tensor."""
    if name in _MODEL_NAMES:
        return _MODEL_NAMES[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk":
        return name
    names = _LAYER_NAMES | (_GEMMA_NAMES if family.startswith("gemma") else {})
    if family == "phi3" and parts[2] == "ffn_up":
        return f"model.layers.{parts[1]}.mlp.gate_up_proj.{parts[3]}"
    return f"model.layers.{parts[1]}.{names.get(parts[2], parts[2])}.{parts[3]}"

"""What GGUF calls families, tensors and facts, in the words of ``config.json`` and safetensors.

Sources: ``gguf.constants``, and the converter and loader of llama.cpp, which know what no fact
says: the positions of Gemma 3's local layers, the scores' factor of the largest Gemmas, whether the
weights of chosen experts are scaled to a sum of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from whet.llm.checkpoints.checkpoint import Checkpoint

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "llama": "llama",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
        "qwen2moe": "qwen2_moe",
        "qwen3moe": "qwen3_moe",
        "phi3": "phi3",
        "gemma2": "gemma2",
        "gemma3": "gemma3_text",
        "olmo": "olmo",
        "olmo2": "olmo2",
        "glm4": "glm4",
        "chatglm": "glm",
        "gpt2": "gpt2",
        "gptneox": "gpt_neox",
    }
)
"""Families by the name that GGUF has for them; a Llama of several experts is a Mixtral.

A ChatGLM 2 or 3 is the GLM-4 of 2024 that it became, its queries, keys and values in one tensor.
"""

EXPERT = "*"
"""Stands in a name for the number of an expert; all of them are one tensor in the file."""

_KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.clamp_kqv": "clip_qkv",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "pooling_type": "pooling_type",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}

_OWN_KEYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "gpt2": {
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "context_length": "n_positions",
        },
        "gptneox": {
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
        },
    }
)

_LAYERS = {"gpt2": "transformer.h", "gptneox": "gpt_neox.layers"}
"""What the names of layers begin with, where that is not ``model.layers``."""

_MODEL_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_OWN_MODEL_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "gpt2": {
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        "gptneox": {
            "token_embd": "gpt_neox.embed_in",
            "output_norm": "gpt_neox.final_layer_norm",
            "output": "embed_out",
        },
    }
)

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
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": f"mlp.experts.{EXPERT}.gate_proj",
    "ffn_up_exps": f"mlp.experts.{EXPERT}.up_proj",
    "ffn_down_exps": f"mlp.experts.{EXPERT}.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}

_GEMMA = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OWN_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "gemma2": _GEMMA,
        "gemma3": _GEMMA,
        "olmo2": _GEMMA,
        "phi3": {"ffn_up": "mlp.gate_up_proj"},
        "chatglm": {"ffn_up": "mlp.gate_up_proj"},
        "glm4": {
            "ffn_up": "mlp.gate_up_proj",
            "post_attention_norm": "post_self_attn_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
        },
        "gpt2": {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        "gptneox": {
            "attn_qkv": "attention.query_key_value",
            "attn_output": "attention.dense",
            "ffn_up": "mlp.dense_h_to_4h",
            "ffn_down": "mlp.dense_4h_to_h",
        },
    }
)
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": f"block_sparse_moe.experts.{EXPERT}.w1",
    "ffn_down_exps": f"block_sparse_moe.experts.{EXPERT}.w2",
    "ffn_up_exps": f"block_sparse_moe.experts.{EXPERT}.w3",
}

_SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}

_PERMUTED = frozenset(["llama", "olmo"])
"""Families whose queries and keys are stored so that neighbours turn together."""
_WIDE_SCORES = {"gemma2": 46, "gemma3": 62}
"""Layers of the Gemmas of 27 billion parameters: their scores have the mean size of heads."""
_LOCAL_THETA = 10000.0
_MOST_LAYERS = 10_000


def tensor_name(name: str, family: str, *, mixed: bool = False) -> str:
    """Return what a safetensors folder calls a tensor; ``mixed`` says that there are experts."""
    stem, _, ending = name.rpartition(".")
    model = _OWN_MODEL_NAMES.get(family, _MODEL_NAMES)
    if stem in model:
        return f"{model[stem]}.{ending}"
    parts = stem.split(".")
    if len(parts) != 3 or parts[0] != "blk":
        return name
    own = _MIXTRAL if mixed and family == "llama" else _OWN_NAMES.get(family, {})
    stem = own.get(parts[2], _LAYER_NAMES.get(parts[2], parts[2]))
    return f"{_LAYERS.get(family, 'model.layers')}.{parts[1]}.{stem}.{ending}"


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """The facts of a file, by their names there, and its tensors by ours."""

    facts: Mapping[str, Any]
    family: str
    tensors: Checkpoint

    def values(self) -> dict[str, Any]:
        """Return the facts with the names that ``config.json`` has for them."""
        values = {
            ours: self._fact(theirs)
            for theirs, ours in {**_KEYS, **_OWN_KEYS.get(self.family, {})}.items()
            if self._fact(theirs) is not None
        }
        names = frozenset(self.tensors.names)
        embedding, head = (
            tensor_name(f"{stem}.weight", self.family) for stem in ("token_embd", "output")
        )
        attention = "model.layers.0.self_attn"
        mixed = self.family == "llama" and bool(values.get("num_local_experts"))
        return {
            **values,
            **self._positions(values, names),
            **self._own(values, names),
            "model_type": "mixtral" if mixed else FAMILIES[self.family],
            "vocab_size": self.tensors.shape(embedding)[0] if embedding in names else 0,
            "tie_word_embeddings": head not in names,
            "attention_bias": any(f"{attention}.{n}_proj.bias" in names for n in ("q", "qkv")),
            "joined_attention": f"{attention}.qkv_proj.weight" in names,
            "mlp_bias": "model.layers.0.mlp.up_proj.bias" in names,
            "rope_interleaved": self.family in _PERMUTED,
            "norms_are_whole": True,
            "transposed_weights": False,
            "heads_together": False,
        }

    def _fact(self, name: str) -> Any:
        return self.facts.get(f"{self.family}.{name}")

    def _own(self, values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
        """Return what one family alone has."""
        found: dict[str, Any] = {}
        if self.family.startswith("gemma"):
            wide = values.get("num_hidden_layers") == _WIDE_SCORES[self.family]
            size = _head_size({**values, "head_dim": None} if wide else values)
            if size:
                found["query_pre_attn_scalar"] = size
        if self.family == "gemma3":
            found["rope_local_base_freq"] = self._fact("rope.freq_base_swa") or _LOCAL_THETA
        if self.family.endswith("moe"):
            found["norm_topk_prob"] = self.family == "qwen3moe"
            found["qkv_bias"] = "model.layers.0.self_attn.q_proj.bias" in names
            found["mlp_only_layers"] = [
                k
                for k in range(min(int(_number(values.get("num_hidden_layers"))), _MOST_LAYERS))
                if f"model.layers.{k}.mlp.gate.weight" not in names
            ]
        return found

    def _positions(self, values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
        """Return what is said of rotary positions; Phi-3's two lists of divisors are tensors."""
        found: dict[str, Any] = {}
        turned, size = _number(self._fact("rope.dimension_count")), _head_size(values)
        if 0 < turned < size or (turned and self.family == "gptneox"):  # it turns a quarter else
            found["partial_rotary_factor"] = turned / size
        kind = self._fact("rope.scaling.type") or "none"
        if kind != "none" or "rope_factors_long.weight" in names:
            found["rope_scaling"] = self._scaling(kind, names)
        if "rope_freqs.weight" in names:
            found["rope_divisors"] = self.tensors.tensor("rope_freqs.weight").tolist()
        return found

    def _scaling(self, kind: str, names: frozenset[str]) -> dict[str, Any]:
        found = {
            ours: self._fact(f"rope.scaling.{theirs}")
            for theirs, ours in _SCALING.items()
            if self._fact(f"rope.scaling.{theirs}") is not None
        }
        if "rope_factors_long.weight" in names:
            lists = {
                f"{k}_factor": self.tensors.tensor(f"rope_factors_{k}.weight").tolist()
                for k in ("short", "long")
            }
            return {"rope_type": "longrope", **found, **lists}
        if kind == "yarn" and "attention_factor" in found:  # a factor of the usual one there
            usual = 0.1 * math.log(max(_number(found.get("factor")), 1.0)) + 1
            found["attention_factor"] = _number(found["attention_factor"]) * usual
        return {"rope_type": kind, **found}


def _number(value: Any) -> float:
    """Return a number; 0 for whatever else a damaged file holds."""
    return float(value) if isinstance(value, int | float) else 0.0


def _head_size(values: Mapping[str, Any]) -> float:
    """Return the elements of a head, 0 if they are not known."""
    heads = _number(values.get("num_attention_heads"))
    mean = _number(values.get("hidden_size")) / heads if heads > 0 else 0.0
    return _number(values.get("head_dim")) or mean

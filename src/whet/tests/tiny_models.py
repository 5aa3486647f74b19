"""Tiny language models of every family, with seeded random weights, as checkpoint folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VOCABULARY, CONTEXT = 131, 256

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": CONTEXT}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_NEOX = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "pad_token_id")}
_GEMMA = {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 20}
_BANDS = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
    "original_max_position_embeddings": 32,
}

_MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "head_dim": 16,
}

_CLASSES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_LAYER = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (112, 64),
    "mlp.up_proj": (112, 64),
    "mlp.down_proj": (64, 112),
    "input_layernorm": (64,),
    "post_attention_layernorm": (64,),
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama3": ("LlamaConfig", {**SIZES, "rope_parameters": _BANDS}),
    "llamayarn": ("LlamaConfig", {**SIZES, "rope_parameters": _YARN}),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 17, "head_dim": 24}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 32}),
    "olmo": ("OlmoConfig", {**SIZES, "clip_qkv": 0.5}),
    "olmo2": ("Olmo2Config", SIZES),
    "phi3": ("Phi3Config", {**SIZES, "sliding_window": None}),
    "phi3long": (
        "Phi3Config",
        {**SIZES, "sliding_window": None, "rope_parameters": _LONG},
    ),
    "gemma2": ("Gemma2Config", {**SIZES, **_GEMMA}),
    "gemma3": ("Gemma3TextConfig", {**SIZES, **_GEMMA}),
    "gpt2": ("GPT2Config", {**_GPT2, **_ENDS}),
    "neox": ("GPTNeoXConfig", _NEOX),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4, "sliding_window": None}),
    "qwen2moe": (
        "Qwen2MoeConfig",
        {**SIZES, **_MOE, "shared_expert_intermediate_size": 48, "norm_topk_prob": False},
    ),
    "qwen3moe": (
        "Qwen3MoeConfig",
        {**SIZES, **_MOE, "norm_topk_prob": True, "mlp_only_layers": [0]},
    ),
    "glm": ("GlmConfig", {**SIZES, "head_dim": 16, "attention_bias": True}),
    "glm4": ("Glm4Config", {**SIZES, "head_dim": 16, "attention_bias": True}),
}


_BERT = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 66,
    "num_labels": 1,
}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _BERT),
    "xlmroberta": ("XLMRobertaConfig", {**_BERT, "pad_token_id": 1, "type_vocab_size": 1}),
}


_BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 112,
    "decoder_ffn_dim": 112,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 3,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 12,
    "d_ff": 112,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}

SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": (
        "MarianConfig",
        {**_BART, "max_position_embeddings": 64, "activation_function": "swish"},
    ),
    "t5": ("T5Config", _T5),
    "t5gated": (
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "whisper": (
        "WhisperConfig",
        {**_BART, "max_source_positions": 30, "max_target_positions": 40, "num_mel_bins": 16},
    ),
}


def write_checkpoint(
    folder: Path, kind: str = "qwen3", seed: int = 11, layers: int | None = None
) -> Path:
    """Write a Llama or Qwen 3 with random weights, for which nothing but NumPy is needed."""
    config = {**SIZES, "model_type": kind, "head_dim": 16, "rms_norm_eps": 1e-6}
    config |= {} if layers is None else {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [_CLASSES[kind]]}))
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (VOCABULARY, 64), "norm": (64,)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in _LAYER.items()}
        if kind == "qwen3":
            shapes |= {f"layers.{i}.self_attn.{n}_norm": (16,) for n in "qk"}
    rng, header, data = np.random.default_rng(seed), {}, b""
    named = {f"model.{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in {**named, "lm_head.weight": (VOCABULARY, 64)}.items():
        array = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.06)
        array = array * 2 + 1 if len(shape) == 1 else array
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def reference_model(name: str) -> Any:
    """Return a model of ``transformers`` in float32; the test is skipped where that is missing."""
    torch = pytest.importorskip("torch", reason="references are models of transformers")
    transformers = pytest.importorskip("transformers", reason="they are references")
    kind, values = MODELS[name]
    torch.manual_seed(11)
    config = getattr(transformers, kind)(**values)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


def save(model: Any, folder: Path) -> Path:
    """Write a checkpoint in several shards and return its folder."""
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def reference_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Return the logits after every token."""
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(tokens)[None]).logits[0].double().numpy()
    return logits

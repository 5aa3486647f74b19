"""Decoders written out in NumPy and float64, to compare with: a Llama of GGUF, and a ChatGLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Tensors = Mapping[str, np.ndarray]


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Return rows divided by the root of their mean square."""
    return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight)


def silu(x: np.ndarray) -> np.ndarray:
    """Return ``x`` times its sigmoid."""
    return np.asarray(x / (1 + np.exp(-x)))


def turned(x: np.ndarray, theta: float, size: int) -> np.ndarray:
    """Return [token, head, element] whose first ``size`` elements turn, neighbours together."""
    angles = np.arange(len(x))[:, None] * theta ** -(np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0:size:2], x[..., 1:size:2]
    pairs = np.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return np.concatenate([pairs.reshape(*x.shape[:2], size), x[..., size:]], -1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return causal attention over [token, head, element]; some heads share keys and values."""
    tokens, heads, size = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], 1) for x in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
    return np.asarray(mixed.reshape(tokens, -1))


def llama_logits(t: Tensors, tokens: Sequence[int], heads: int, size: int) -> np.ndarray:
    """Return the logits of a Llama whose tensors have the names and the order of a GGUF file."""
    x = t["token_embd.weight"][list(tokens)]
    for k in range(sum(name.endswith("attn_q.weight") for name in t)):
        part = {name.split(".")[2]: w for name, w in t.items() if name.startswith(f"blk.{k}.")}
        y = rms_norm(x, part["attn_norm"], 1e-6)
        q, key, v = ((y @ part[f"attn_{r}"].T).reshape(len(x), -1, size) for r in "qkv")
        assert q.shape[1] == heads
        y = attention(turned(q, 10000.0, size), turned(key, 10000.0, size), v)
        x = x + y @ part["attn_output"].T
        y = rms_norm(x, part["ffn_norm"], 1e-6)
        inner = silu(y @ part["ffn_gate"].T) * (y @ part["ffn_up"].T)
        x = x + inner @ part["ffn_down"].T
    return np.asarray(rms_norm(x, t["output_norm.weight"], 1e-6) @ t["output.weight"].T)


def chatglm_logits(t: Tensors, tokens: Sequence[int], facts: Mapping[str, int]) -> np.ndarray:
    """Return the logits of a ChatGLM 2 or 3; source: its published ``modeling_chatglm.py``."""
    heads, groups = facts["num_attention_heads"], facts["multi_query_group_num"]
    size, inner, eps = facts["kv_channels"], facts["ffn_hidden_size"], facts["layernorm_epsilon"]
    theta, ends = 10000.0 * facts["rope_ratio"], np.cumsum([heads * size, groups * size])
    x = t["transformer.embedding.word_embeddings.weight"][list(tokens)]
    for number in range(facts["num_layers"]):
        name = f"transformer.encoder.layers.{number}"
        y = rms_norm(x, t[f"{name}.input_layernorm.weight"], eps)
        mixed = f"{name}.self_attention.query_key_value"
        y = y @ t[f"{mixed}.weight"].T + t[f"{mixed}.bias"]
        q, k, v = (part.reshape(len(x), -1, size) for part in np.split(y, ends, -1))
        y = attention(turned(q, theta, size // 2), turned(k, theta, size // 2), v)
        x = x + y @ t[f"{name}.self_attention.dense.weight"].T
        y = rms_norm(x, t[f"{name}.post_attention_layernorm.weight"], eps)
        y = y @ t[f"{name}.mlp.dense_h_to_4h.weight"].T
        y = silu(y[:, :inner]) * y[:, inner:]
        x = x + y @ t[f"{name}.mlp.dense_4h_to_h.weight"].T
    x = rms_norm(x, t["transformer.encoder.final_layernorm.weight"], eps)
    return np.asarray(x @ t["transformer.output_layer.weight"].T)

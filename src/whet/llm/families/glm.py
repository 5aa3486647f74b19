"""GLM-4 and ChatGLM: rotary positions on neighbours of half a head, gate and up in one tensor."""

from __future__ import annotations

from whet.errors import UnsupportedError
from whet.llm.architecture import Architecture, Layer, Part
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import (
    PRE_NORMS,
    attention_parts,
    decoder,
    head_size,
    joined_attention_parts,
    joined_mlp_parts,
    model_parts,
    norm_parts,
)
from whet.llm.families.rope_config import rope_of

POST_NORMS = {
    "attention_post_norm": "post_self_attn_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


def glm(config: Config) -> Architecture:
    """Return a GLM-4 of 2024; source: ``modeling_glm.py`` of transformers."""
    return _glm(config, PRE_NORMS)


def glm4(config: Config) -> Architecture:
    """Return a GLM-4 of 2025, with norms behind too; source: ``modeling_glm4.py``."""
    return _glm(config, PRE_NORMS | POST_NORMS)


def chatglm(config: Config) -> Architecture:
    """Return a ChatGLM 2 or 3, or a GLM-4 as first published; ``modeling_chatglm.py`` beside it.

    Raises:
        UnsupportedError: it has norms of mean and variance, or attention that adds the input later.
    """
    for key, wanted in (("rmsnorm", True), ("apply_residual_connection_post_layernorm", False)):
        if config.flag(key, default=wanted) != wanted:
            raise UnsupportedError(
                f"{key} is {not wanted}", where=config.where, hint="no ChatGLM 2 or later says so"
            )
    heads, size = config.integer("num_attention_heads"), config.integer("kv_channels")
    groups = config.integer("multi_query_group_num", 2)
    if not config.flag("multi_query_attention"):
        groups = heads
    inner = config.integer("ffn_hidden_size")
    known = {
        **config.values,
        "num_key_value_heads": groups,
        "head_dim": size,
        "intermediate_size": inner,
        "vocab_size": config.integer("padded_vocab_size"),
        "max_position_embeddings": config.integer("seq_length", 2048),
        "rms_norm_eps": config.number("layernorm_epsilon", 1e-5),
        "rope_theta": 10000.0 * config.number("rope_ratio", 1.0),
        "partial_rotary_factor": 0.5,
    }
    whole = Config(known, config.where)
    rope = rope_of(whole, size, interleaved=True)
    layers = tuple(
        Layer(_chatglm_parts(i, (heads * size, groups * size, inner), config), rope)
        for i in range(config.integer("num_layers"))
    )
    own = {
        "embedding": Part("transformer.embedding.word_embeddings.weight"),
        "norm": Part("transformer.encoder.final_layernorm.weight"),
        "head": Part("transformer.output_layer.weight"),
    }
    return decoder(whole, layers, own)


def _chatglm_parts(number: int, sizes: tuple[int, int, int], config: Config) -> dict[str, Part]:
    prefix, (q, kv, inner) = f"transformer.encoder.layers.{number}", sizes
    gates = f"{prefix}.mlp.dense_h_to_4h.weight"
    parts = {
        "gate": Part(gates, 0, inner),
        "up": Part(gates, inner, 2 * inner),
        "down": Part(f"{prefix}.mlp.dense_4h_to_h.weight"),
        "o": Part(f"{prefix}.self_attention.dense.weight"),
        "attention_norm": Part(f"{prefix}.input_layernorm.weight"),
        "mlp_norm": Part(f"{prefix}.post_attention_layernorm.weight"),
    }
    rows = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
    biased = config.flag("add_qkv_bias", default=True)
    for role, (start, stop) in rows.items():
        parts[role] = Part(f"{prefix}.self_attention.query_key_value.weight", start, stop)
        if biased:
            bias = f"{prefix}.self_attention.query_key_value.bias"
            parts[f"{role}.bias"] = Part(bias, start, stop)
    return parts


def _glm(config: Config, norms: dict[str, str]) -> Architecture:
    known = Config({"partial_rotary_factor": 0.5, **config.values}, config.where)
    rope = rope_of(known, head_size(config), interleaved=True)
    bias, joined = config.flag("attention_bias"), config.flag("joined_attention")
    layers = []
    for i in range(config.integer("num_hidden_layers")):
        attention = (
            joined_attention_parts(config, i, bias=bias)
            if joined
            else attention_parts(i, "qkv" if bias else "")
        )
        parts = attention | joined_mlp_parts(config, i) | norm_parts(i, norms)
        layers.append(Layer(parts, rope))
    return decoder(config, tuple(layers), model_parts(config))

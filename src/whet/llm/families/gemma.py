"""Gemma 2 and Gemma 3: norms on both sides, windows on most layers, scaled embeddings."""

from __future__ import annotations

from whet.llm.architecture import Architecture, Layer, Rope
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import (
    HEAD_NORMS,
    attention_parts,
    decoder,
    head_size,
    mlp_parts,
    model_parts,
    norm_parts,
    windows,
)
from whet.llm.families.rope_config import rope_of

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def gemma2(config: Config) -> Architecture:
    """Return a Gemma 2; source: ``modeling_gemma2.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    default = [LOCAL if i % 2 == 0 else GLOBAL for i in range(count)]
    return _gemma(config, default, NORMS)


def gemma3(config: Config) -> Architecture:
    """Return a Gemma 3 for text; source: ``modeling_gemma3.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    every = config.integer("sliding_window_pattern", 6)
    default = [GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(count)]
    return _gemma(config, default, NORMS | HEAD_NORMS)


def _gemma(config: Config, default: list[str], norms: dict[str, str]) -> Architecture:
    kinds = config.layer_types(len(default)) or default
    plus = 0.0 if config.flag("norms_are_whole") else 1.0
    whole = Config({**config.values, "layer_types": kinds}, config.where)
    layers = tuple(
        Layer(
            attention_parts(i) | mlp_parts(i) | norm_parts(i, norms, plus=plus),
            _rope(config, kind),
            window,
        )
        for i, (kind, window) in enumerate(zip(kinds, windows(whole, len(kinds)), strict=True))
    )
    hidden = config.integer("hidden_size")
    return decoder(
        config,
        layers,
        model_parts(config, tied=True, plus=plus),
        activation=config.text("hidden_activation", "gelu_pytorch_tanh"),
        scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        score_softcap=config.number("attn_logit_softcapping", 0.0),
        logit_softcap=config.number("final_logit_softcapping", 0.0),
        embedding_scale=float(hidden) ** 0.5,
    )


def _rope(config: Config, kind: str) -> Rope:
    local = config.values.get("rope_local_base_freq")
    if kind == LOCAL and local is not None and not config.nested("rope_parameters").values:
        return rope_of(Config({"rope_theta": local}, config.where), head_size(config))
    return rope_of(config, head_size(config), kind=kind)

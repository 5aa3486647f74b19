"""OLMo and OLMo 2: norms without weights, or norms behind and over all heads together."""

from __future__ import annotations

from whet.llm.architecture import Architecture
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import (
    HEAD_NORMS,
    attention_parts,
    decoder,
    mlp_parts,
    model_parts,
    norm_parts,
    plain_layers,
    windows,
)


def olmo(config: Config) -> Architecture:
    """Return an OLMo; source: ``modeling_olmo.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    biases = "qkvo" if config.flag("attention_bias") else ""
    parts = [attention_parts(i, biases) | mlp_parts(i) for i in range(count)]
    layers = plain_layers(config, parts, windows(config, count))
    own = {role: part for role, part in model_parts(config).items() if role != "norm"}
    clip = config.number("clip_qkv", 0.0)
    return decoder(config, layers, own, norm="layer", norm_eps=1e-5, bare_norm=True, clip=clip)


def olmo2(config: Config) -> Architecture:
    """Return an OLMo 2; source: ``modeling_olmo2.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    names = {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
    parts = [
        attention_parts(i) | mlp_parts(i) | norm_parts(i, names | HEAD_NORMS) for i in range(count)
    ]
    layers = plain_layers(config, parts, windows(config, count))
    return decoder(config, layers, model_parts(config), full_norms=True)

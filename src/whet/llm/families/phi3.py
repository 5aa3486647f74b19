"""Phi-3: a Llama whose query, key and value, and gate and up, are one tensor each."""

from __future__ import annotations

from whet.llm.architecture import Architecture
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import (
    PRE_NORMS,
    decoder,
    joined_attention_parts,
    joined_mlp_parts,
    model_parts,
    norm_parts,
    plain_layers,
    windows,
)


def phi3(config: Config) -> Architecture:
    """Return a Phi-3; source: ``modeling_phi3.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    parts = [
        joined_attention_parts(config, i) | joined_mlp_parts(config, i) | norm_parts(i, PRE_NORMS)
        for i in range(count)
    ]
    layers = plain_layers(config, parts, windows(config, count))
    return decoder(config, layers, model_parts(config))

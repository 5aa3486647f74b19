"""Phi-3: a Llama whose query, key and value, and gate and up, are one tensor each."""

from __future__ import annotations

from whet.llm.architecture import Architecture, Part
from whet.llm.config import Config
from whet.llm.families.common import (
    PRE_NORMS,
    decoder,
    head_size,
    model_parts,
    norm_parts,
    plain_layers,
    windows,
)


def phi3(config: Config) -> Architecture:
    """Return a Phi-3; source: ``modeling_phi3.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    parts = [_parts(config, i) | norm_parts(i, PRE_NORMS) for i in range(count)]
    layers = plain_layers(config, parts, windows(config, count))
    return decoder(config, layers, model_parts(config))


def _parts(config: Config, number: int) -> dict[str, Part]:
    prefix = f"model.layers.{number}"
    heads, size = config.integer("num_attention_heads"), head_size(config)
    q, inner = heads * size, config.integer("intermediate_size")
    kv = config.integer("num_key_value_heads", heads) * size
    fused, gates = f"{prefix}.self_attn.qkv_proj.weight", f"{prefix}.mlp.gate_up_proj.weight"
    return {
        "q": Part(fused, 0, q),
        "k": Part(fused, q, q + kv),
        "v": Part(fused, q + kv, q + 2 * kv),
        "o": Part(f"{prefix}.self_attn.o_proj.weight"),
        "gate": Part(gates, 0, inner),
        "up": Part(gates, inner, 2 * inner),
        "down": Part(f"{prefix}.mlp.down_proj.weight"),
    }

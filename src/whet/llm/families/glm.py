"""GLM-4: rotary positions on neighbours of half a head, gate and up in one tensor."""

from __future__ import annotations

from whet.llm.architecture import Architecture, Layer, Part
from whet.llm.config import Config
from whet.llm.families.common import (
    PRE_NORMS,
    attention_parts,
    decoder,
    head_size,
    model_parts,
    norm_parts,
)
from whet.llm.rope_config import rope_of

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


def _glm(config: Config, norms: dict[str, str]) -> Architecture:
    known = Config({"partial_rotary_factor": 0.5, **config.values}, config.where)
    rope = rope_of(known, head_size(config), interleaved=True)
    biases = "qkv" if config.flag("attention_bias") else ""
    inner = config.integer("intermediate_size")
    layers = []
    for i in range(config.integer("num_hidden_layers")):
        gates = f"model.layers.{i}.mlp.gate_up_proj.weight"
        mlp = {
            "gate": Part(gates, 0, inner),
            "up": Part(gates, inner, 2 * inner),
            "down": Part(f"model.layers.{i}.mlp.down_proj.weight"),
        }
        layers.append(Layer(attention_parts(i, biases) | mlp | norm_parts(i, norms), rope))
    return decoder(config, tuple(layers), model_parts(config))

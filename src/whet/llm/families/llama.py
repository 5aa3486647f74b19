"""Llama, Mistral, SmolLM, Qwen 2 and Qwen 3: RMS norms before, rotary positions, gated network."""

from __future__ import annotations

from whet.llm.architecture import Architecture
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import (
    HEAD_NORMS,
    PRE_NORMS,
    attention_parts,
    decoder,
    mlp_parts,
    model_parts,
    norm_parts,
    plain_layers,
    windows,
)


def llama(config: Config) -> Architecture:
    """Return a Llama, a Mistral or a SmolLM; source: ``modeling_llama.py`` of transformers."""
    biases = "qkvo" if config.flag("attention_bias") else ""
    bias = config.flag("mlp_bias")
    return _family(config, biases, PRE_NORMS, bias=bias, sliding=True)


def qwen2(config: Config) -> Architecture:
    """Return a Qwen 2 or 2.5, whose queries, keys and values have biases."""
    return _family(config, "qkv", PRE_NORMS, bias=False, sliding=False)


def qwen3(config: Config) -> Architecture:
    """Return a Qwen 3, which normalises queries and keys head by head."""
    biases = "qkvo" if config.flag("attention_bias") else ""
    return _family(config, biases, PRE_NORMS | HEAD_NORMS, bias=False, sliding=False)


def _family(
    config: Config, biases: str, norms: dict[str, str], *, bias: bool, sliding: bool
) -> Architecture:
    count = config.integer("num_hidden_layers")
    parts = [
        attention_parts(i, biases) | mlp_parts(i, bias=bias) | norm_parts(i, norms)
        for i in range(count)
    ]
    layers = plain_layers(config, parts, windows(config, count, sliding))
    return decoder(config, layers, model_parts(config))

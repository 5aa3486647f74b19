"""Mixtures of experts: Mixtral, Qwen 2 MoE and Qwen 3 MoE."""

from __future__ import annotations

from dataclasses import replace

from whet.llm.architecture import Architecture, Experts, Layer, Part
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

MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
QWEN = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def mixtral(config: Config) -> Architecture:
    """Return a Mixtral; source: ``modeling_mixtral.py`` of transformers."""
    count = config.integer("num_hidden_layers")
    experts = Experts(
        config.integer("num_local_experts", 8),
        config.integer("num_experts_per_tok", 2),
        config.integer("intermediate_size"),
        normalised=True,
    )
    parts = [
        attention_parts(i)
        | expert_parts(f"model.layers.{i}.block_sparse_moe", experts, MIXTRAL)
        | norm_parts(i, PRE_NORMS)
        for i in range(count)
    ]
    layers = plain_layers(config, parts, windows(config, count))
    layers = tuple(replace(layer, experts=experts) for layer in layers)
    return decoder(config, layers, model_parts(config))


def qwen2_moe(config: Config) -> Architecture:
    """Return a Qwen 2 MoE, which has an expert that all tokens use; ``modeling_qwen2_moe.py``."""
    shared = config.integer("shared_expert_intermediate_size")
    biases = "qkv" if config.flag("qkv_bias", default=True) else ""
    return _qwen(config, biases, PRE_NORMS, shared)


def qwen3_moe(config: Config) -> Architecture:
    """Return a Qwen 3 MoE; source: ``modeling_qwen3_moe.py`` of transformers."""
    biases = "qkvo" if config.flag("attention_bias") else ""
    return _qwen(config, biases, PRE_NORMS | HEAD_NORMS, 0)


def _qwen(config: Config, biases: str, norms: dict[str, str], shared: int) -> Architecture:
    count, step = config.integer("num_hidden_layers"), config.integer("decoder_sparse_step", 1)
    experts = Experts(
        config.integer("num_experts", config.integer("num_local_experts", 128)),
        config.integer("num_experts_per_tok"),
        config.integer("moe_intermediate_size"),
        normalised=config.flag("norm_topk_prob"),
        shared=shared,
    )
    dense = config.values.get("mlp_only_layers") or ()
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(count)]
    parts = [
        attention_parts(i, biases)
        | (expert_parts(f"model.layers.{i}.mlp", experts, QWEN) if sparse[i] else mlp_parts(i))
        | norm_parts(i, norms)
        for i in range(count)
    ]
    layers = plain_layers(config, parts, windows(config, count, default=False))
    return decoder(config, _routed(layers, experts, sparse), model_parts(config))


def _routed(layers: tuple[Layer, ...], experts: Experts, sparse: list[bool]) -> tuple[Layer, ...]:
    return tuple(
        replace(layer, experts=experts if routed else None)
        for layer, routed in zip(layers, sparse, strict=True)
    )


def expert_parts(prefix: str, experts: Experts, names: dict[str, str]) -> dict[str, Part]:
    """Return the tensors of a router and its experts."""
    parts = {"router": Part(f"{prefix}.gate.weight")}
    for number in range(experts.count):
        for role, name in names.items():
            parts[f"expert{number}.{role}"] = Part(f"{prefix}.experts.{number}.{name}.weight")
    if experts.shared:
        for role, name in names.items():
            parts[f"shared.{role}"] = Part(f"{prefix}.shared_expert.{name}.weight")
        parts["shared.router"] = Part(f"{prefix}.shared_expert_gate.weight")
    return parts

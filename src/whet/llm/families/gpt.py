"""GPT-2 and GPT-NeoX: layer norms with biases, and a network of two products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whet.llm.architecture import Architecture, Layer, Part
from whet.llm.checkpoints.config import Config
from whet.llm.families.common import decoder
from whet.llm.families.rope_config import rope_of


def gpt2(config: Config) -> Architecture:
    """Return a GPT-2, whose matrices lie transposed; source: ``modeling_gpt2.py``."""
    hidden = config.integer("n_embd")
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": config.integer("n_head"),
        "max_position_embeddings": config.integer("n_positions", 1024),
        "intermediate_size": config.integer("n_inner", 4 * hidden),
    }
    known = Config({**config.values, **sizes}, config.where)
    turned = config.flag("transposed_weights", default=True)
    layers = tuple(Layer(_gpt2_parts(i, hidden, turned)) for i in range(config.integer("n_layer")))
    tied = config.flag("tie_word_embeddings", default=True)
    own = {
        "embedding": Part("transformer.wte.weight"),
        "positions": Part("transformer.wpe.weight"),
        "norm": Part("transformer.ln_f.weight"),
        "norm.bias": Part("transformer.ln_f.bias"),
        "head": Part("transformer.wte.weight" if tied else "lm_head.weight"),
    }
    return decoder(
        known,
        layers,
        own,
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=config.text("activation_function", "gelu_new"),
    )


def _gpt2_parts(number: int, hidden: int, turned: bool) -> dict[str, Part]:
    prefix = f"transformer.h.{number}"
    parts: dict[str, Part] = {}
    for k, role in enumerate("qkv"):
        span = (k * hidden, (k + 1) * hidden)
        parts[role] = Part(f"{prefix}.attn.c_attn.weight", *span, transposed=turned)
        parts[f"{role}.bias"] = Part(f"{prefix}.attn.c_attn.bias", *span)
    for role, name in (("o", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
        parts[role] = Part(f"{prefix}.{name}.weight", transposed=turned)
        parts[f"{role}.bias"] = Part(f"{prefix}.{name}.bias")
    for role, name in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
        parts[role] = Part(f"{prefix}.{name}.weight")
        parts[f"{role}.bias"] = Part(f"{prefix}.{name}.bias")
    return parts


def gpt_neox(config: Config) -> Architecture:
    """Return a GPT-NeoX or Pythia; source: ``modeling_gpt_neox.py`` of transformers."""
    heads = config.integer("num_attention_heads")
    size = config.integer("hidden_size") // heads
    partial = config.number("rotary_pct", 0.25)
    theta = config.number("rotary_emb_base", 10000.0)
    known = {"partial_rotary_factor": partial, "rope_theta": theta, **config.values}
    rope = rope_of(Config(known, config.where), size)
    together = config.flag("heads_together", default=True)
    rows = [Part("", thirds=(heads, k)) for k in range(3)]
    if not together:  # all queries, then all keys, then all values
        width = heads * size
        rows = [Part("", k * width, (k + 1) * width) for k in range(3)]
    layers = tuple(
        Layer(_neox_parts(i, rows), rope) for i in range(config.integer("num_hidden_layers"))
    )
    tied = config.flag("tie_word_embeddings")
    own = {
        "embedding": Part("gpt_neox.embed_in.weight"),
        "norm": Part("gpt_neox.final_layer_norm.weight"),
        "norm.bias": Part("gpt_neox.final_layer_norm.bias"),
        "head": Part("gpt_neox.embed_in.weight" if tied else "embed_out.weight"),
    }
    return decoder(
        config,
        layers,
        own,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-5),
        activation=config.text("hidden_act", "gelu"),
        parallel=config.flag("use_parallel_residual", default=True),
    )


def _neox_parts(number: int, rows: Sequence[Part]) -> dict[str, Part]:
    """Return the tensors of a layer, given which rows of one tensor are queries, keys, values."""
    prefix = f"gpt_neox.layers.{number}"
    parts: dict[str, Part] = {}
    for part, role in zip(rows, "qkv", strict=True):
        for suffix, ending in (("", "weight"), (".bias", "bias")):
            name = f"{prefix}.attention.query_key_value.{ending}"
            parts[role + suffix] = replace(part, name=name)
    names = {
        "o": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    for role, name in names.items():
        parts[role] = Part(f"{prefix}.{name}.weight")
        parts[f"{role}.bias"] = Part(f"{prefix}.{name}.bias")
    return parts

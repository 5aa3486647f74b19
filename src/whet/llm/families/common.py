"""What most families have in common: names of tensors as Llama has them, and layers like it."""

from __future__ import annotations

from dataclasses import replace

from whet.llm.architecture import Architecture, Layer, Part, Parts
from whet.llm.checkpoints.config import Config
from whet.llm.families.rope_config import rope_of


def model_parts(config: Config, *, tied: bool = False, plus: float = 0.0) -> Parts:
    """Return the model's own tensors."""
    tied = config.flag("tie_word_embeddings", default=tied)
    return {
        "embedding": Part("model.embed_tokens.weight"),
        "norm": Part("model.norm.weight", plus=plus),
        "head": Part("model.embed_tokens.weight" if tied else "lm_head.weight"),
    }


def attention_parts(number: int, biases: str = "") -> dict[str, Part]:
    """Return the tensors of attention; ``biases`` lists which of q, k, v and o have one."""
    prefix = f"model.layers.{number}.self_attn"
    parts = {role: Part(f"{prefix}.{role}_proj.weight") for role in "qkvo"}
    return parts | {f"{role}.bias": Part(f"{prefix}.{role}_proj.bias") for role in biases}


def joined_attention_parts(config: Config, number: int, *, bias: bool = False) -> dict[str, Part]:
    """Return the tensors of attention whose queries, keys and values are rows of one tensor."""
    heads, size = config.integer("num_attention_heads"), head_size(config)
    q, kv = heads * size, config.integer("num_key_value_heads", heads) * size
    prefix = f"model.layers.{number}.self_attn"
    rows = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
    parts = {role: Part(f"{prefix}.qkv_proj.weight", *span) for role, span in rows.items()}
    if bias:
        parts |= {f"{role}.bias": Part(f"{prefix}.qkv_proj.bias", *s) for role, s in rows.items()}
    return parts | {"o": Part(f"{prefix}.o_proj.weight")}


def joined_mlp_parts(config: Config, number: int) -> dict[str, Part]:
    """Return the tensors of a feed-forward network whose gate and what it opens are one tensor."""
    inner, prefix = config.integer("intermediate_size"), f"model.layers.{number}.mlp"
    return {
        "gate": Part(f"{prefix}.gate_up_proj.weight", 0, inner),
        "up": Part(f"{prefix}.gate_up_proj.weight", inner, 2 * inner),
        "down": Part(f"{prefix}.down_proj.weight"),
    }


def mlp_parts(number: int, *, bias: bool = False) -> dict[str, Part]:
    """Return the tensors of a gated feed-forward network."""
    roles = ("gate", "up", "down")
    prefix = f"model.layers.{number}.mlp"
    parts = {role: Part(f"{prefix}.{role}_proj.weight") for role in roles}
    if bias:
        parts |= {f"{role}.bias": Part(f"{prefix}.{role}_proj.bias") for role in roles}
    return parts


def norm_parts(number: int, names: dict[str, str], plus: float = 0.0) -> dict[str, Part]:
    """Return the norms of a layer, given their names by role."""
    prefix = f"model.layers.{number}"
    return {role: Part(f"{prefix}.{name}.weight", plus=plus) for role, name in names.items()}


PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""Norms before attention and before the feed-forward network, as most families call them."""

HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
"""Norms of queries and keys."""


def head_size(config: Config) -> int:
    """Return the elements of a head."""
    return config.integer(
        "head_dim", config.integer("hidden_size") // config.integer("num_attention_heads")
    )


def windows(config: Config, count: int, default: bool = True) -> list[int]:
    """Return how many positions each layer sees; 0 for all."""
    window = config.integer("sliding_window", 0) if config.values.get("sliding_window") else 0
    if not config.flag("use_sliding_window", default=default):
        window = 0
    kinds = config.layer_types(count)
    if kinds is None:
        return [window] * count
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def plain_layers(
    config: Config, parts: list[dict[str, Part]], seen: list[int]
) -> tuple[Layer, ...]:
    """Return layers that all have the same rotary positions."""
    rope = rope_of(config, head_size(config), interleaved=config.flag("rope_interleaved"))
    return tuple(Layer(p, rope, window) for p, window in zip(parts, seen, strict=True))


def decoder(
    config: Config, layers: tuple[Layer, ...], parts: Parts, **facts: object
) -> Architecture:
    """Return a decoder with the sizes that most configurations spell alike."""
    heads = config.integer("num_attention_heads")
    size = head_size(config)
    base = Architecture(
        family=config.text("model_type", ""),
        vocabulary=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head_size=size,
        inner=config.integer("intermediate_size"),
        context=config.integer("max_position_embeddings", 2048),
        layers=layers,
        parts=parts,
        norm_eps=config.number("rms_norm_eps", 1e-6),
        activation=config.text("hidden_act", config.text("hidden_activation", "silu")),
        scale=size**-0.5,
    )
    return replace(base, **facts)  # type: ignore[arg-type]

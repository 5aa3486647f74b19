"""Encoder–decoders: Marian, T5 and Whisper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from whet.llm.architecture import Part, Parts
from whet.llm.checkpoints.config import Config
from whet.llm.graphs.seq2seq_graph import Seq2SeqShape, Stack

_BART = {
    "self.q": "self_attn.q_proj",
    "self.k": "self_attn.k_proj",
    "self.v": "self_attn.v_proj",
    "self.o": "self_attn.out_proj",
    "self.norm": "self_attn_layer_norm",
    "up": "fc1",
    "down": "fc2",
    "mlp.norm": "final_layer_norm",
}
_CROSS = {
    "cross.q": "encoder_attn.q_proj",
    "cross.k": "encoder_attn.k_proj",
    "cross.v": "encoder_attn.v_proj",
    "cross.o": "encoder_attn.out_proj",
    "cross.norm": "encoder_attn_layer_norm",
}


def named(prefix: str, names: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, Part]:
    """Return weights and biases by role; roles in ``without`` have no bias."""
    parts: dict[str, Part] = {}
    for role, name in names.items():
        parts[role] = Part(f"{prefix}{name}.weight")
        if role not in without:
            parts[f"{role}.bias"] = Part(f"{prefix}{name}.bias")
    return parts


def marian(config: Config) -> Seq2SeqShape:
    """Return a Marian, whose norms stand behind; source: ``modeling_marian.py`` of transformers."""
    stacks = []
    for side, names in (("encoder", _BART), ("decoder", _BART | _CROSS)):
        prefix = f"model.{side}."
        layers = tuple(
            named(f"{prefix}layers.{i}.", names) for i in range(config.integer(f"{side}_layers"))
        )
        stacks.append(Stack(layers, {"positions": Part(f"{prefix}embed_positions.weight")}))
    shared = Part("model.shared.weight")
    own = {"embedding": shared, "head": shared, "head.bias": Part("final_logits_bias")}
    scaled = config.flag("scale_embedding")
    return _bart(config, (stacks[0], stacks[1]), own, norm_first=False, scaled=scaled)


def whisper(config: Config) -> Seq2SeqShape:
    """Return a Whisper, which hears; source: ``modeling_whisper.py`` of transformers."""
    without = ("self.k", "cross.k")
    stacks = []
    for side, names in (("encoder", _BART), ("decoder", _BART | _CROSS)):
        prefix = f"model.{side}."
        count = config.integer(f"{side}_layers")
        layers = tuple(named(f"{prefix}layers.{i}.", names, without) for i in range(count))
        parts = named(prefix, {"norm": "layer_norm"})
        parts["positions"] = Part(f"{prefix}embed_positions.weight")
        if side == "encoder":
            parts |= named(prefix, {"conv1": "conv1", "conv2": "conv2"})
        stacks.append(Stack(layers, parts))
    shared = Part("model.decoder.embed_tokens.weight")
    own = {"embedding": shared, "head": shared}
    return _bart(config, (stacks[0], stacks[1]), own, norm_first=True, scaled=False)


def _bart(
    config: Config, stacks: tuple[Stack, Stack], own: Parts, *, norm_first: bool, scaled: bool
) -> Seq2SeqShape:
    hidden, heads = config.integer("d_model"), config.integer("encoder_attention_heads")
    sound = config.text("model_type", "") == "whisper"
    return Seq2SeqShape(
        family=config.text("model_type", ""),
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        heads=heads,
        head_size=hidden // heads,
        inner=config.integer("encoder_ffn_dim"),
        context=config.integer("max_target_positions" if sound else "max_position_embeddings", 448),
        source=config.integer("max_source_positions" if sound else "max_position_embeddings", 1500),
        encoder=stacks[0],
        decoder=stacks[1],
        parts=own,
        norm="layer",
        norm_first=norm_first,
        norm_eps=1e-5,
        activation=config.text("activation_function", "gelu"),
        scale=(hidden // heads) ** -0.5,
        embedding_scale=hidden**0.5 if scaled else 1.0,
        bands=config.integer("num_mel_bins", 80) if sound else 0,
        start=_start(config),
    )


def t5(config: Config) -> Seq2SeqShape:
    """Return a T5, mT5 or Flan-T5; source: ``modeling_t5.py`` of transformers."""
    gated = "gated" in config.text("feed_forward_proj", "relu")
    activation = config.text("feed_forward_proj", "relu").removeprefix("gated-")
    encoder = _t5_stack("encoder", config.integer("num_layers"), gated=gated)
    layers = config.integer("num_decoder_layers", config.integer("num_layers"))
    hidden = config.integer("d_model")
    tied = config.flag("tie_word_embeddings", default=True)
    return Seq2SeqShape(
        family=config.text("model_type", ""),
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        heads=config.integer("num_heads"),
        head_size=config.integer("d_kv"),
        inner=config.integer("d_ff"),
        context=config.integer("n_positions", 512),
        source=0,
        encoder=encoder,
        decoder=_t5_stack("decoder", layers, gated=gated),
        parts={
            "embedding": Part("shared.weight"),
            "head": Part("shared.weight" if tied else "lm_head.weight"),
        },
        norm="rms",
        norm_first=True,
        norm_eps=config.number("layer_norm_epsilon", 1e-6),
        activation="gelu_new" if gated and activation == "gelu" else activation,
        scale=1.0,
        head_scale=hidden**-0.5 if config.flag("scale_decoder_outputs", default=tied) else 1.0,
        start=_start(config),
    )


def _t5_stack(side: str, count: int, *, gated: bool) -> Stack:
    layers = []
    for i in range(count):
        prefix, last = f"{side}.block.{i}.layer", 2 if side == "decoder" else 1
        parts = {f"self.{r}": Part(f"{prefix}.0.SelfAttention.{r}.weight") for r in "qkvo"}
        parts["self.norm"] = Part(f"{prefix}.0.layer_norm.weight")
        if side == "decoder":
            parts |= {f"cross.{r}": Part(f"{prefix}.1.EncDecAttention.{r}.weight") for r in "qkvo"}
            parts["cross.norm"] = Part(f"{prefix}.1.layer_norm.weight")
        inner = f"{prefix}.{last}.DenseReluDense"
        names = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
        parts |= {role: Part(f"{inner}.{name}.weight") for role, name in names.items()}
        parts["down"] = Part(f"{inner}.wo.weight")
        parts["mlp.norm"] = Part(f"{prefix}.{last}.layer_norm.weight")
        layers.append(parts)
    near = Part(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    own = {"norm": Part(f"{side}.final_layer_norm.weight"), "near": near}
    return Stack(tuple(layers), own, relative=True)


def _start(config: Config) -> int:
    value = config.values.get("decoder_start_token_id")
    if not isinstance(value, int):
        raise config.error(f"decoder_start_token_id is {value!r}, needs an integer")
    return value


FAMILIES: Mapping[str, Callable[[Config], Seq2SeqShape]] = MappingProxyType(
    {"marian": marian, "t5": t5, "mt5": t5, "whisper": whisper}
)


def seq2seq_of(config: Config) -> Seq2SeqShape:
    """Return the encoder–decoder that a configuration describes.

    Raises:
        UnsupportedError: the family is not known.
        ModelError: a value is missing or wrong.
    """
    return FAMILIES[config.family(FAMILIES)](config)

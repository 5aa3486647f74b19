"""Text encoders, decoders and sequence-to-sequence models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.architectures.architecture import Architecture, Input

VOCABULARY = 99
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
EXAMPLE = {"batch": 2, "sequence": 8}
SIZES = (
    {"batch": 1, "sequence": 5},
    {"batch": 2, "sequence": 11},
    {"batch": 3, "sequence": 16},
)
IDS = Input("input_ids", "tokens", ("batch", "sequence"), VOCABULARY)
MASK = Input("attention_mask", "mask", ("batch", "sequence"))
NO_CACHE = {"use_cache": False}


def encoder(model: str, /, **config: Any) -> Architecture:
    """Return an encoder of token ids and a padding mask."""
    return Architecture(model, "text", {**SIZE, **config}, (IDS, MASK), EXAMPLE, SIZES)


def decoder(model: str, /, **config: Any) -> Architecture:
    """Return a decoder that reads a whole prompt."""
    settings = {**SIZE, "num_key_value_heads": 2, **config}
    return Architecture(model, "text", settings, (IDS, MASK), EXAMPLE, SIZES, call=NO_CACHE)


def translator(model: str, config: Mapping[str, Any]) -> Architecture:
    """Return an encoder and decoder; their lengths differ."""
    inputs = (IDS, MASK, Input("decoder_input_ids", "tokens", ("batch", "target"), VOCABULARY))
    return Architecture(
        model,
        "text",
        {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        | {"decoder_start_token_id": 1, **config},
        inputs,
        {**EXAMPLE, "target": 6},
        tuple({**s, "target": s["sequence"] - 2} for s in SIZES),
        call=NO_CACHE,
    )


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

ENCODERS = {
    "bert": encoder("BertModel"),
    "roberta": encoder("RobertaModel", max_position_embeddings=70),
    "xlm_roberta": encoder("XLMRobertaModel", max_position_embeddings=70),
    "camembert": encoder("CamembertModel", max_position_embeddings=70),
    "distilbert": encoder("DistilBertModel", **DISTIL),
    "albert": encoder("AlbertModel", embedding_size=16),
    "electra": encoder("ElectraModel", embedding_size=16),
    "mpnet": encoder("MPNetModel", max_position_embeddings=70),
    "deberta": encoder("DebertaModel", pos_att_type=["c2p", "p2c"], relative_attention=True),
    "deberta_v2": encoder("DebertaV2Model", pos_att_type=["c2p", "p2c"], relative_attention=True),
    "convbert": encoder("ConvBertModel", embedding_size=16),
    "mobilebert": encoder(
        "MobileBertModel", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16
    ),
    "squeezebert": encoder("SqueezeBertModel", embedding_size=32),
    "roformer": encoder("RoFormerModel", embedding_size=32),
    "rembert": encoder("RemBertModel", input_embedding_size=16, output_embedding_size=32),
    "ernie": encoder("ErnieModel"),
    "nystromformer": encoder("NystromformerModel", num_landmarks=64, segment_means_seq_len=64),
    "modernbert": encoder("ModernBertModel", global_attn_every_n_layers=2, local_attention=8),
    "megatron_bert": encoder("MegatronBertModel"),
    "esm": encoder("EsmModel", max_position_embeddings=70, mask_token_id=2),
    "ibert": encoder("IBertModel", max_position_embeddings=70),
    "flaubert": encoder("FlaubertModel", emb_dim=32, n_layers=2, n_heads=4, n_words=VOCABULARY),
    "xlm": encoder("XLMModel", emb_dim=32, n_layers=2, n_heads=4, n_words=VOCABULARY),
    "fnet": Architecture(
        "FNetModel",
        "text",
        {**SIZE, "use_tpu_fourier_optimizations": False},
        (IDS,),
        EXAMPLE,
        SIZES,
    ),
    "funnel": Architecture(
        "FunnelBaseModel",
        "text",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
        | {"block_sizes": [1, 1]},
        (IDS, MASK),
        EXAMPLE,
        SIZES,
    ),
    "layoutlm": Architecture(
        "LayoutLMModel",
        "multimodal",
        {**SIZE, "max_2d_position_embeddings": 101},
        (IDS, Input("bbox", "boxes", ("batch", "sequence", 4)), MASK),
        EXAMPLE,
        SIZES,
    ),
}

DECODERS = {
    "gpt2": decoder("GPT2Model", **GPT2),
    "gpt_neo": decoder(
        "GPTNeoModel", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
    ),
    "gpt_neox": decoder("GPTNeoXModel"),
    "gptj": decoder("GPTJModel", **GPT2, rotary_dim=4),
    "codegen": decoder("CodeGenModel", **GPT2, rotary_dim=4),
    "gpt_bigcode": decoder("GPTBigCodeModel", **GPT2),
    "opt": decoder("OPTModel", ffn_dim=64, word_embed_proj_dim=32),
    "bloom": decoder("BloomModel", n_layer=2, n_head=4),
    "xglm": decoder("XGLMModel", d_model=32, num_layers=2, attention_heads=4, ffn_dim=64),
    "biogpt": decoder("BioGptModel"),
    "llama": decoder("LlamaModel"),
    "mistral": decoder("MistralModel", sliding_window=8),
    "qwen2": decoder("Qwen2Model"),
    "qwen3": decoder("Qwen3Model", head_dim=8),
    "gemma": decoder("GemmaModel", head_dim=8),
    "gemma2": decoder("Gemma2Model", head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "gemma3": decoder("Gemma3TextModel", head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "phi": decoder("PhiModel"),
    "phi3": decoder("Phi3Model"),
    "falcon": decoder("FalconModel", num_kv_heads=2, new_decoder_architecture=True),
    "mpt": decoder("MptModel", d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "stablelm": decoder("StableLmModel"),
    "olmo": decoder("OlmoModel"),
    "olmo2": decoder("Olmo2Model"),
    "cohere": decoder("CohereModel"),
    "starcoder2": decoder("Starcoder2Model"),
    "granite": decoder("GraniteModel"),
    "glm": decoder("GlmModel", head_dim=8),
    "smollm3": decoder("SmolLM3Model"),
    "mixtral": decoder("MixtralModel", num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": decoder("Qwen3MoeModel", num_experts=4, head_dim=8, **EXPERTS),
    "ctrl": decoder("CTRLModel", n_embd=32, n_layer=2, n_head=4, dff=64, n_positions=64),
    "openai_gpt": Architecture(
        "OpenAIGPTModel", "text", {**SIZE, **GPT2}, (IDS, MASK), EXAMPLE, SIZES
    ),
    "mamba": Architecture(
        "MambaModel", "text", {**SIZE, "state_size": 4}, (IDS,), EXAMPLE, SIZES, call=NO_CACHE
    ),
    "lfm2": decoder("Lfm2Model", layer_types=["conv", "full_attention"], block_ff_dim=64),
}

TRANSLATORS = {
    "bart": translator("BartModel", BART),
    "mbart": translator("MBartModel", BART),
    "pegasus": translator("PegasusModel", BART),
    "marian": translator("MarianModel", BART),
    "m2m_100": translator("M2M100Model", BART),
    "blenderbot": translator("BlenderbotModel", BART),
    "plbart": translator("PLBartModel", BART),
    "t5": translator("T5Model", T5),
    "mt5": translator("MT5Model", {**T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": translator("UMT5Model", T5),
}

TEXT = {**ENCODERS, **DECODERS, **TRANSLATORS}

"""GPT-2, the T5-small encoder, CLIP's text tower, the Whisper-tiny encoder and an LSTM tagger."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5EncoderModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.models.transformer_encoders import HiddenStates
from benchmarks.models.weights import fill_weights

TAGS = 48
TAGGER_VOCABULARY = 20000


class TokensOnly(nn.Module):
    """Calls a model with token ids and returns its first output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map int64 (N, S) to f32, (N, S, vocabulary) or (N, embedding)."""
        out: torch.Tensor = self.model(input_ids=input_ids, return_dict=False)[0]
        return out


def gpt2() -> nn.Module:
    """Return GPT-2 (124M) with its language-model head, without a cache."""
    return fill_weights(HiddenStates(GPT2LMHeadModel(GPT2Config(use_cache=False))))


@torch.no_grad()
def t5_encoder() -> nn.Module:
    """Return the encoder of T5-small; its attention has no 1/sqrt(d), so the queries carry it."""
    config = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, use_cache=False)
    model = fill_weights(HiddenStates(T5EncoderModel(config)))
    for name, parameter in model.named_parameters():
        if name.endswith(".q.weight"):
            parameter.div_(config.d_kv**0.5)
    return model


def clip_text() -> nn.Module:
    """Return the text tower of CLIP ViT-B/32, projection included."""
    config = CLIPTextConfig(projection_dim=512)
    return fill_weights(TokensOnly(CLIPTextModelWithProjection(config)))


class AudioEncoder(nn.Module):
    """Calls Whisper's encoder with log-mel features."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """Map f32 (N, 80, 3000) to (N, 1500, 384)."""
        out: torch.Tensor = self.encoder(input_features, return_dict=False)[0]
        return out


def whisper_encoder() -> nn.Module:
    """Return the encoder of Whisper-tiny."""
    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
    )
    return fill_weights(AudioEncoder(WhisperEncoder(config)))


class Tagger(nn.Module):
    """Embedding, two bidirectional LSTM layers of 256, and a linear layer per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TAGGER_VOCABULARY, 128)
        self.lstm = nn.LSTM(128, 256, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(512, TAGS)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map int64 (N, S) to tag scores (N, S, TAGS)."""
        out: torch.Tensor = self.linear(self.lstm(self.embedding(input_ids))[0])
        return out


def lstm_tagger() -> nn.Module:
    """Return the tagger."""
    tagger = Tagger()
    fill_weights(tagger, gain=2.0)
    with torch.no_grad():
        tagger.embedding.weight *= tagger.embedding.embedding_dim**0.5
    return tagger

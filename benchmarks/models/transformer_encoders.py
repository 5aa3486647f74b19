"""Text encoders: BERT-base, DistilBERT and MiniLM, from their published configurations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from benchmarks.models.weights import fill_weights


class HiddenStates(nn.Module):
    """Calls a model with token ids and a padding mask and returns its first output."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map int64 (N, S) ids and mask to f32 (N, S, H), or logits."""
        out: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return out


def _encoder(make: Callable[[], nn.Module]) -> nn.Module:
    return fill_weights(HiddenStates(make()))


def bert_base() -> nn.Module:
    """Return BERT-base, uncased."""
    return _encoder(lambda: BertModel(BertConfig(), add_pooling_layer=False))


def distilbert() -> nn.Module:
    """Return DistilBERT-base, uncased."""
    return _encoder(lambda: DistilBertModel(DistilBertConfig()))


def minilm() -> nn.Module:
    """Return MiniLM-L6-H384, as used for sentence embeddings."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return _encoder(lambda: BertModel(config, add_pooling_layer=False))

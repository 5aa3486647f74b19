"""ViT-B/16, Swin-T, ConvNeXt-T and CLIP's vision tower, from their published configurations."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextForImageClassification,
    PretrainedConfig,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks.models.weights import fill_weights

CLASSES = 1000

Config = TypeVar("Config", bound=PretrainedConfig)


class FirstOutput(nn.Module):
    """Calls an image model and returns its first output as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map f32 (N, 3, 224, 224) to logits or an embedding."""
        out: torch.Tensor = self.model(pixel_values=pixel_values, return_dict=False)[0]
        return out


@torch.no_grad()
def _fill_tokens(model: nn.Module) -> None:
    """Give class tokens, positions and layer scales values that matter; they start at 0 or 1e-6."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "position_embeddings", "class_embedding")):
            parameter.normal_(0.0, 0.5, generator=generator)
        elif name.endswith("layer_scale_parameter"):
            parameter.uniform_(0.1, 0.5, generator=generator)
        elif name.endswith("relative_position_bias_table"):
            parameter.normal_(0.0, 0.5, generator=generator)


def _classes(config: Config) -> Config:
    config.num_labels = CLASSES
    return config


def _image_model(model: nn.Module) -> nn.Module:
    filled = fill_weights(FirstOutput(model))
    _fill_tokens(filled)
    return filled


def vit_b16() -> nn.Module:
    """Return ViT-B/16 with its classifier."""
    return _image_model(ViTForImageClassification(_classes(ViTConfig())))


def swin_t() -> nn.Module:
    """Return Swin-T with its classifier."""
    return _image_model(SwinForImageClassification(_classes(SwinConfig())))


def convnext_t() -> nn.Module:
    """Return ConvNeXt-T with its classifier."""
    return _image_model(ConvNextForImageClassification(_classes(ConvNextConfig())))


def clip_vision() -> nn.Module:
    """Return the ViT-B/32 image tower of CLIP, projection included."""
    return _image_model(CLIPVisionModelWithProjection(CLIPVisionConfig()))

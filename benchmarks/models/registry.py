"""The table of benchmark models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.models.inputs import InputSpec

IMAGE = (InputSpec("input", (1, 3, 224, 224), "image"),)
PIXELS = (InputSpec("pixel_values", (1, 3, 224, 224), "image"),)
FEATURES = (InputSpec("input_features", (1, 80, 3000), "features"),)
BERT_VOCABULARY = 30522


Family = Literal["convolutional", "transformer", "recurrent"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One benchmark model.

    Attributes:
        builder: ``module:function`` under ``benchmarks.models`` that returns the torch module;
            a name, so that looking at the table does not import torch.
        inputs: the model's inputs.
        family: which tolerance its results are held to.
        outputs: names given to the outputs.
        opset: of the TorchScript exporter's file.
    """

    builder: str
    inputs: tuple[InputSpec, ...]
    family: Family = "convolutional"
    outputs: tuple[str, ...] = ("output",)
    opset: int = 17


def _text(length: int, vocabulary: int = BERT_VOCABULARY) -> tuple[InputSpec, ...]:
    return (
        InputSpec("input_ids", (1, length), "tokens", vocabulary),
        InputSpec("attention_mask", (1, length), "mask"),
    )


def _image(size: int) -> tuple[InputSpec, ...]:
    return (InputSpec("input", (1, 3, size, size), "image"),)


def _tokens(length: int, vocabulary: int) -> tuple[InputSpec, ...]:
    return (InputSpec("input_ids", (1, length), "tokens", vocabulary),)


MODELS: dict[str, ModelSpec] = {
    "resnet18": ModelSpec("resnet:resnet18", IMAGE),
    "resnet50": ModelSpec("resnet:resnet50", IMAGE),
    "resnext50": ModelSpec("resnet:resnext50", IMAGE),
    "mobilenet_v2": ModelSpec("mobilenet:mobilenet_v2", IMAGE),
    "mobilenet_v3_large": ModelSpec("mobilenet:mobilenet_v3_large", IMAGE),
    "efficientnet_b0": ModelSpec("efficientnet:efficientnet_b0", IMAGE),
    "densenet121": ModelSpec("densenet:densenet121", IMAGE),
    "inception_v3": ModelSpec("inception:inception_v3", _image(299)),
    "squeezenet": ModelSpec("plain_cnns:squeezenet", IMAGE),
    "shufflenet_v2": ModelSpec("plain_cnns:shufflenet_v2", IMAGE),
    "vgg16": ModelSpec("plain_cnns:vgg16", IMAGE),
    "yolov5s": ModelSpec("yolo:yolov5s", _image(640)),
    "unet": ModelSpec("unet:unet", _image(256)),
    "convnext_t": ModelSpec("vision_transformers:convnext_t", PIXELS, "transformer"),
    "vit_b16": ModelSpec("vision_transformers:vit_b16", PIXELS, "transformer"),
    "swin_t": ModelSpec("vision_transformers:swin_t", PIXELS, "transformer"),
    "bert_base_128": ModelSpec("transformer_encoders:bert_base", _text(128), "transformer"),
    "bert_base_384": ModelSpec("transformer_encoders:bert_base", _text(384), "transformer"),
    "distilbert": ModelSpec("transformer_encoders:distilbert", _text(128), "transformer"),
    "minilm": ModelSpec("transformer_encoders:minilm", _text(128), "transformer"),
    "gpt2": ModelSpec("sequence_models:gpt2", _text(128, 50257), "transformer"),
    "t5_encoder": ModelSpec("sequence_models:t5_encoder", _text(128, 32128), "transformer"),
    "clip_vision": ModelSpec("vision_transformers:clip_vision", PIXELS, "transformer"),
    "clip_text": ModelSpec("sequence_models:clip_text", _tokens(77, 49408), "transformer"),
    "whisper_encoder": ModelSpec("sequence_models:whisper_encoder", FEATURES, "transformer"),
    "lstm_tagger": ModelSpec("sequence_models:lstm_tagger", _tokens(64, 20000), "recurrent"),
}

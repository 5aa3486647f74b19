"""The table of benchmark models."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.models.inputs import InputSpec

IMAGE = (InputSpec("input", (1, 3, 224, 224), "image"),)
BERT_VOCABULARY = 30522


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One benchmark model.

    Attributes:
        builder: ``module:function`` under ``benchmarks.models`` that returns the torch module;
            a name, so that looking at the table does not import torch.
        inputs: the model's inputs.
        outputs: names given to the outputs.
        opset: of the TorchScript exporter's file.
    """

    builder: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...] = ("output",)
    opset: int = 17


def _text(length: int, vocabulary: int = BERT_VOCABULARY) -> tuple[InputSpec, ...]:
    return (
        InputSpec("input_ids", (1, length), "tokens", vocabulary),
        InputSpec("attention_mask", (1, length), "mask"),
    )


MODELS: dict[str, ModelSpec] = {
    "resnet50": ModelSpec("resnet:resnet50", IMAGE),
    "mobilenet_v2": ModelSpec("mobilenet:mobilenet_v2", IMAGE),
    "bert_base_128": ModelSpec("transformer_encoders:bert_base", _text(128)),
    "resnet18": ModelSpec("resnet:resnet18", IMAGE),
    "resnext50": ModelSpec("resnet:resnext50", IMAGE),
    "mobilenet_v3_large": ModelSpec("mobilenet:mobilenet_v3_large", IMAGE),
    "bert_base_384": ModelSpec("transformer_encoders:bert_base", _text(384)),
    "distilbert": ModelSpec("transformer_encoders:distilbert", _text(128)),
    "minilm": ModelSpec("transformer_encoders:minilm", _text(128)),
}

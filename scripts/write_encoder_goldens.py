"""Write the reference vectors and scores of tiny encoders, computed by ``transformers`` in float64.

Needs ``torch`` and ``transformers``.

    PYTHONPATH=src python scripts/write_encoder_goldens.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from whet.tests.golden_models import Golden, facts_of, write_golden, write_goldens
from whet.tests.tiny_models import ENCODERS, VOCABULARY

Array = np.ndarray[Any, np.dtype[Any]]

LENGTHS, SEED = (5, 23, 1, 12), 3


def write(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the facts and arrays of one model."""
    kind, values = ENCODERS[name]
    classes = transformers.AutoModelForSequenceClassification
    config, shapes = facts_of(classes.from_config(getattr(transformers, kind)(**values)))
    rng = np.random.RandomState(4)
    texts = [rng.randint(5, VOCABULARY, n).tolist() for n in LENGTHS]
    kinds = [[int(k >= len(t) // 2 and name == "bert") for k in range(len(t))] for t in texts]
    with tempfile.TemporaryDirectory() as folder:
        golden = Golden(config, shapes, SEED, np.zeros(0), np.zeros(0))
        model = classes.from_pretrained(
            write_golden(Path(folder), golden), dtype=torch.float64, attn_implementation="eager"
        ).eval()
    with torch.no_grad():
        pairs = [
            model(torch.tensor([t]), token_type_ids=torch.tensor([k]))
            for t, k in zip(texts, kinds, strict=True)
        ]
        found = [model(torch.tensor([t]), output_hidden_states=True) for t in texts]
    arrays: dict[str, Array] = {
        f"{name}.mean": np.stack([f.hidden_states[-1][0].mean(0) for f in found]),
        f"{name}.cls": np.stack([f.hidden_states[-1][0, 0] for f in found]),
        f"{name}.scores": np.stack([f.logits[0] for f in found]),
        f"{name}.pairs": np.stack([f.logits[0] for f in pairs]),
    }
    facts = {
        "config": config,
        "seed": SEED,
        "shapes": shapes,
        "texts": texts,
        "kinds": kinds,
    }
    return facts, {k: v.astype(np.float32) for k, v in arrays.items()}


if __name__ == "__main__":
    write_goldens("encoder", sorted(ENCODERS), write)

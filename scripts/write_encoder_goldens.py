"""Write the reference vectors and scores of tiny encoders, computed by ``transformers`` in float64.

Needs ``torch`` and ``transformers``.

    PYTHONPATH=src python scripts/write_encoder_goldens.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from whet.llm.checkpoint import TensorFolder
from whet.tests.golden_models import DATA, Golden, write_golden
from whet.tests.tiny_models import ENCODERS, VOCABULARY

LENGTHS = (5, 23, 1, 12)


def untrained(name: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return configuration and shapes of a model, as a checkpoint has them."""
    kind, values = ENCODERS[name]
    config = getattr(transformers, kind)(**values)
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        model.float().save_pretrained(folder)
        found = TensorFolder(folder)
        facts = {k: v for k, v in found.config.values.items() if v is not None}
        facts.pop("transformers_version", None)
        return facts, {n: found.shape(n) for n in sorted(found.names)}


def main() -> None:
    """Write all models."""
    facts: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(4)
    texts = [rng.randint(5, VOCABULARY, n).tolist() for n in LENGTHS]
    for name in sorted(ENCODERS):
        config, shapes = untrained(name)
        with tempfile.TemporaryDirectory() as folder:
            golden = Golden(config, shapes, 3, np.zeros(0), np.zeros(0))
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                write_golden(Path(folder), golden),
                dtype=torch.float64,
                attn_implementation="eager",
            ).eval()
        kinds = [[int(k >= len(t) // 2 and name == "bert") for k in range(len(t))] for t in texts]
        with torch.no_grad():
            pairs = [
                model(torch.tensor([t]), token_type_ids=torch.tensor([k]))
                for t, k in zip(texts, kinds, strict=True)
            ]
            found = [model(torch.tensor([t]), output_hidden_states=True) for t in texts]
        arrays[f"{name}.mean"] = np.stack([f.hidden_states[-1][0].mean(0) for f in found])
        arrays[f"{name}.cls"] = np.stack([f.hidden_states[-1][0, 0] for f in found])
        arrays[f"{name}.scores"] = np.stack([f.logits[0] for f in found])
        arrays[f"{name}.pairs"] = np.stack([f.logits[0] for f in pairs])
        facts[name] = {"config": config, "seed": 3, "shapes": shapes, "texts": texts,
                       "kinds": kinds}  # fmt: skip
    (DATA / "encoder_goldens.json").write_text(json.dumps(facts) + "\n")
    small = {k: v.astype(np.float32) for k, v in arrays.items()}
    np.savez_compressed(DATA / "encoder_goldens.npz", **small)


if __name__ == "__main__":
    main()

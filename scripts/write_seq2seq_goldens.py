"""Write what tiny encoder–decoders make of sources, computed by ``transformers`` in float64.

Needs ``torch`` and ``transformers``.

    PYTHONPATH=src python scripts/write_seq2seq_goldens.py [NAME …]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from whet.tests.golden_models import Golden, facts_of, write_golden, write_goldens
from whet.tests.tiny_models import SEQ2SEQ, VOCABULARY

Array = np.ndarray[Any, np.dtype[Any]]

NEW, CLEAR, SECONDS = 30, 1e-3, 0.55


def classes(name: str) -> Any:
    """Return the class of a model."""
    whisper = transformers.WhisperForConditionalGeneration
    return whisper if name == "whisper" else transformers.AutoModelForSeq2SeqLM


def loaded(name: str, found: Golden) -> Any:
    """Return a model with seeded weights, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_golden(Path(folder), found)
        options = {"dtype": torch.float64, "attn_implementation": "eager"}
        return classes(name).from_pretrained(path, **options).eval()


def sound() -> np.ndarray:
    """Return half a second of noise and tones."""
    rng = np.random.RandomState(8)
    times = np.arange(int(SECONDS * 16_000)) / 16_000
    return 0.2 * np.sin(2 * np.pi * 440 * times) + 0.05 * rng.standard_normal(times.size)


def greedy(model: Any, source: dict[str, Any], start: int) -> tuple[list[int], np.ndarray, float]:
    """Return greedy tokens, the last logits, and by how much the closest choice was clear."""
    tokens, clear = [start], np.inf
    with torch.no_grad():
        for _ in range(NEW):
            rows = model(**source, decoder_input_ids=torch.tensor([tokens])).logits[0]
            best = torch.sort(rows[-1]).values
            clear = min(clear, float(best[-1] - best[-2]))
            tokens.append(int(rows[-1].argmax()))
    return tokens[1:], rows[-1].numpy(), clear


def write(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the facts and arrays of one model."""
    kind, values = SEQ2SEQ[name]
    make, settings = classes(name), getattr(transformers, kind)(**values)
    made = make(settings) if name == "whisper" else make.from_config(settings)
    config, shapes = facts_of(made)
    rng = np.random.RandomState(6)
    sources = [rng.randint(3, VOCABULARY, n).tolist() for n in (7, 25, 1)]
    given: list[dict[str, Any]] = [{"input_ids": torch.tensor([s])} for s in sources]
    if name == "whisper":
        heard = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
        features = heard(sound(), sampling_rate=16_000, return_tensors="np").input_features
        given = [{"input_features": torch.tensor(features[:, :, :60]).double()}]
    for seed in range(1, 60):
        print(name, "tries seed", seed, flush=True)
        model = loaded(name, Golden(config, shapes, seed, np.zeros(0), np.zeros(0)))
        found = [greedy(model, g, config["decoder_start_token_id"]) for g in given]
        varied = len({token for tokens, _, _ in found for token in tokens})
        if min(clear for _, _, clear in found) > CLEAR and varied > 2:
            break
    else:
        raise SystemExit(f"{name}: no seed is clear")
    print(name, "seed", seed, "distinct", varied, flush=True)
    facts = {"config": config, "seed": seed, "shapes": shapes, "sources": sources}
    arrays: dict[str, Array] = {
        f"{name}.tokens": np.array([tokens for tokens, _, _ in found], np.int16),
        f"{name}.logits": np.array([rows for _, rows, _ in found], np.float32),
    }
    if name == "whisper":
        arrays["features"] = features[0, :, :60].astype(np.float32)
    return facts, arrays


if __name__ == "__main__":
    heard = {"sound": sound().astype(np.float32)}
    write_goldens("seq2seq", sys.argv[1:] or sorted(SEQ2SEQ), write, heard)

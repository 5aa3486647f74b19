"""Write the reference logits and greedy tokens of tiny language models of every family.

Needs ``torch`` and ``transformers``; models compute in float64. A seed is taken whose greedy
choices are all clear, so that rounding cannot decide one: the likeliest token is ahead by 1e-3
everywhere. They have to be of 8 tokens or more, as a model that repeats one proves little.

    PYTHONPATH=src python scripts/write_llm_goldens.py [NAME …]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from whet.llm.checkpoint import TensorFolder
from whet.tests.golden_models import DATA, NEW, PLACES, Golden, prompt, write_golden
from whet.tests.tiny_models import MODELS, VOCABULARY

CLEAR, DISTINCT = 1e-3, 8


def untrained(name: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return configuration and shapes of a model, as a checkpoint has them."""
    kind, values = MODELS[name]
    config = getattr(transformers, kind)(**values)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        found = TensorFolder(folder)
        facts = {k: v for k, v in found.config.values.items() if v is not None}
        facts.pop("transformers_version", None)
        return facts, {n: found.shape(n) for n in sorted(found.names)}


def loaded(found: Golden) -> Any:
    """Return a model with seeded weights, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        return transformers.AutoModelForCausalLM.from_pretrained(
            write_golden(Path(folder), found),
            dtype=torch.float64,
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()


def greedy(model: Any, start: list[int]) -> tuple[list[int], np.ndarray]:
    """Return the prompt with its greedy tokens, and the logits behind all but the last."""
    tokens = list(start)
    with torch.no_grad():
        found = model(torch.tensor([tokens]), use_cache=True)
        rows = [found.logits[0]]
        for _ in range(NEW):
            tokens.append(int(rows[-1][-1].argmax()))
            if len(tokens) < len(start) + NEW:
                found = model(
                    torch.tensor([tokens[-1:]]),
                    past_key_values=found.past_key_values,
                    use_cache=True,
                )
                rows.append(found.logits[0])
    return tokens, torch.cat(rows).numpy()


def write(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts and arrays of one model."""
    config, shapes = untrained(name)
    for seed in range(1, 100):
        model = loaded(Golden(config, shapes, seed, np.zeros(0), np.zeros(0)))
        start = prompt(seed, VOCABULARY)
        tokens, logits = greedy(model, start)
        best = np.sort(logits[len(start) - 1 :], -1)
        varied = len(set(tokens[len(start) :])) >= DISTINCT
        if varied and (best[:, -1] - best[:, -2]).min() > CLEAR:
            break
    else:
        raise SystemExit(f"{name}: no seed is clear")
    print(name, "seed", seed, "distinct", len(set(tokens[len(start) :])), flush=True)
    facts = {"config": config, "seed": seed, "shapes": {n: list(s) for n, s in shapes.items()}}
    arrays = {
        f"{name}.tokens": np.array(tokens, np.int16),
        f"{name}.logits": logits[list(PLACES)].astype(np.float32),
    }
    return facts, arrays


def main() -> None:
    """Write the models that are named, or all."""
    names = sys.argv[1:] or sorted(MODELS)
    texts, numbers = DATA / "llm_goldens.json", DATA / "llm_goldens.npz"
    facts = json.loads(texts.read_text()) if texts.exists() else {}
    arrays = dict(np.load(numbers)) if numbers.exists() else {}
    for name in names:
        facts[name], more = write(name)
        arrays |= more
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(facts[n])}" for n in sorted(facts))
    texts.write_text("{\n" + lines + "\n}\n")
    np.savez_compressed(numbers, **{k: arrays[k] for k in sorted(arrays)})


if __name__ == "__main__":
    main()

"""Write the reference logits and greedy tokens of tiny language models of every family.

Needs ``torch`` and ``transformers``; models compute in float64. A seed is taken whose greedy
choices are all clear, so that rounding cannot decide one: the likeliest token is ahead by 1e-3
everywhere. They have to be of 8 tokens or more, as a model that repeats one proves little.

    PYTHONPATH=src python scripts/write_llm_goldens.py [NAME …]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from whet.tests.golden_models import (
    NEW,
    PLACES,
    Golden,
    facts_of,
    prompt,
    write_golden,
    write_goldens,
)
from whet.tests.tiny_models import MODELS, VOCABULARY

Array = np.ndarray[Any, np.dtype[Any]]

CLEAR, DISTINCT = 1e-3, 8


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


def write(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the facts and arrays of one model."""
    kind, values = MODELS[name]
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**values))
    config, shapes = facts_of(made)
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
    facts = {
        "config": config,
        "seed": seed,
        "shapes": {n: list(s) for n, s in shapes.items()},
    }
    arrays: dict[str, Array] = {
        f"{name}.tokens": np.array(tokens, np.int16),
        f"{name}.logits": logits[list(PLACES)].astype(np.float32),
    }
    return facts, arrays


if __name__ == "__main__":
    write_goldens("llm", sys.argv[1:] or sorted(MODELS), write)

"""Write references for tiny models of images and text: pixels, logits and greedy tokens.

Needs ``torch`` and ``transformers``; models compute in float64. A seed is taken whose greedy
choices are all clear, so that rounding cannot decide one.

    PYTHONPATH=src python scripts/write_vision_goldens.py [NAME …]
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from whet.tests.golden_models import facts_of, write_goldens
from whet.tests.vision_models import (
    MARKER,
    NEW,
    PLACES,
    VISION,
    VisionGolden,
    images,
    prompt,
    write_vision_golden,
)

Array = np.ndarray[Any, np.dtype[Any]]
CLEAR, DISTINCT = 1e-3, 6
_QWEN = ("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil")
_PROCESSORS = {
    "llava": ("transformers.models.llava.image_processing_pil_llava", "LlavaImageProcessorPil"),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
}


def loaded(name: str, found: VisionGolden) -> Any:
    """Return a model with seeded weights, in float64."""
    kind = getattr(transformers, f"{VISION[name][0]}ForConditionalGeneration")
    with tempfile.TemporaryDirectory() as folder:
        path = write_vision_golden(Path(folder), found)
        model = kind.from_pretrained(path, dtype=torch.float64, attn_implementation="eager")
        return model.eval()


def greedy(model: Any, start: list[int], seen: dict[str, Any]) -> tuple[list[int], np.ndarray]:
    """Return the greedy tokens behind a prompt, and the logits behind all but the last token."""
    tokens = list(start)
    for _ in range(NEW):
        marks = torch.tensor([[int(t == MARKER) for t in tokens]])
        more = {"mm_token_type_ids": marks} if "image_grid_thw" in seen else {}
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens]), **seen, **more).logits[0]
        tokens.append(int(logits[-1].argmax()))
        if tokens[-1] == MARKER:  # the model says an image, which nobody gave
            break
    return tokens[len(start) :], logits.numpy()


def write(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the facts and arrays of one model."""
    family, values, _ = VISION[name]
    settings = getattr(transformers, f"{family}Config")(**values)
    made = getattr(transformers, f"{family}ForConditionalGeneration")(settings)
    config, shapes = facts_of(made)
    module, kind = _PROCESSORS[name]
    processor = getattr(import_module(module), kind)(**VISION[name][2])
    none = np.zeros(0)
    for seed in range(1, 200):
        model = loaded(name, VisionGolden(config, VISION[name][2], shapes, seed, none, none, none))
        batch = processor([Image.fromarray(i) for i in images(seed)], return_tensors="np")
        pixels = np.stack(batch["pixel_values"])
        seen = {"pixel_values": torch.tensor(pixels, dtype=torch.float64)}
        counts = [9, 9]
        if "image_grid_thw" in batch:
            seen["image_grid_thw"] = torch.tensor(batch["image_grid_thw"])
            counts = [int(n) // 4 for n in batch["image_grid_thw"].prod(1)]
        start: list[int] = []
        for token in prompt(seed):
            start += [MARKER] * counts.pop(0) if token == MARKER else [token]
        tokens, logits = greedy(model, start, seen)
        best = np.sort(logits[len(start) - 1 :], -1)
        if (
            len(tokens) == NEW
            and len(set(tokens)) >= DISTINCT
            and (best[:, -1] - best[:, -2]).min() > CLEAR
        ):
            break
    else:
        raise SystemExit(f"{name}: no seed is clear")
    print(name, "seed", seed, "distinct", len(set(tokens)), flush=True)
    listed = {n: list(s) for n, s in shapes.items()}
    facts = {
        "config": config,
        "processor": VISION[name][2],
        "seed": seed,
        "shapes": listed,
    }
    arrays: dict[str, Array] = {
        f"{name}.pixels": pixels.astype(np.float32),
        f"{name}.tokens": np.array(tokens, np.int16),
        f"{name}.logits": logits[list(PLACES)].astype(np.float32),
    }
    return facts, arrays


if __name__ == "__main__":
    write_goldens("vision", sys.argv[1:] or sorted(VISION), write)

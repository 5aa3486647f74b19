"""Tiny models of images and text with seeded weights, and what ``transformers`` makes of them.

``data/vision_goldens.json`` holds configurations, names and shapes, ``data/vision_goldens.npz``
pixels, logits and tokens; ``python scripts/write_vision_goldens.py`` writes both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.tests.golden_models import DATA, weights, write_tensors
from whet.tests.tiny_models import SIZES, VOCABULARY

MARKER, NEW = 7, 40
PLACES = (0, 5, -NEW, -1)
"""Positions of the logits that are kept."""

_TEXT = {k: v for k, v in SIZES.items() if k != "pad_token_id"}
_SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

VISION: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llava": (
        "Llava",
        {
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 30,
                "patch_size": 10,
                "projection_dim": 32,
            },
            "text_config": {"model_type": "llama", **_TEXT},
            "image_token_index": MARKER,
        },
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}},
    ),
    "qwen2_vl": (
        "Qwen2VL",
        {
            "vision_config": {
                "depth": 2,
                "embed_dim": 48,
                "hidden_size": 64,
                "num_heads": 3,
                "mlp_ratio": 2,
                "patch_size": 6,
            },
            "text_config": {"rope_parameters": _SECTIONS, **_TEXT},
            "image_token_id": MARKER,
            "vision_start_token_id": 8,
            "video_token_id": 9,
            "vision_end_token_id": 10,
        },
        {"patch_size": 6, "min_pixels": 12 * 12 * 4, "max_pixels": 12 * 12 * 30},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {
            "vision_config": {
                "depth": 3,
                "hidden_size": 48,
                "intermediate_size": 80,
                "out_hidden_size": 64,
                "num_heads": 3,
                "patch_size": 6,
                "window_size": 24,
                "fullatt_block_indexes": [1],
            },
            "text_config": {"rope_parameters": _SECTIONS, **_TEXT},
            "image_token_id": MARKER,
            "vision_start_token_id": 8,
            "video_token_id": 9,
            "vision_end_token_id": 10,
        },
        {"patch_size": 6, "min_pixels": 12 * 12 * 4, "max_pixels": 12 * 12 * 30},
    ),
}
"""Models by name: class, configuration, and what their image processor is given."""


@dataclass(frozen=True, slots=True)
class VisionGolden:
    """One model and its reference.

    Attributes:
        config: what ``config.json`` holds.
        processor: what ``preprocessor_config.json`` holds.
        shapes: shapes of its tensors by name.
        seed: of the weights, the prompt and the images.
        pixels: what the image processor makes of the images, one behind the other.
        tokens: greedy tokens behind the prompt.
        logits: of the positions ``PLACES``.
    """

    config: dict[str, Any]
    processor: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    seed: int
    pixels: np.ndarray
    tokens: np.ndarray
    logits: np.ndarray


def vision_golden(name: str) -> VisionGolden:
    """Return a model and its reference."""
    facts = json.loads((DATA / "vision_goldens.json").read_text())[name]
    shapes = {n: tuple(s) for n, s in facts["shapes"].items()}
    with np.load(DATA / "vision_goldens.npz") as arrays:
        pixels, tokens, logits = (arrays[f"{name}.{k}"] for k in ("pixels", "tokens", "logits"))
    config, processor = facts["config"], facts["processor"]
    return VisionGolden(config, processor, shapes, facts["seed"], pixels, tokens, logits)


def prompt(seed: int) -> list[int]:
    """Return a seeded prompt with places for two images."""
    words = np.random.RandomState(seed).randint(11, VOCABULARY, 12).tolist()
    return [*words[:3], MARKER, *words[3:8], MARKER, *words[8:]]


def images(seed: int) -> list[np.ndarray]:
    """Return two seeded images, smooth and of odd sizes."""
    rng = np.random.RandomState(seed)
    found = []
    for height, width in ((41, 57), (77, 50)):
        rows, columns = np.indices((height, width))
        waves = [np.sin(rows / rng.uniform(3, 9) + columns / rng.uniform(3, 9)) for _ in range(3)]
        noise = rng.uniform(-20, 20, (height, width, 3))
        bytes_ = np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255)
        found.append(bytes_.astype(np.uint8))
    return found


def write_vision_golden(folder: Path, found: VisionGolden) -> Path:
    """Write the checkpoint of a model."""
    (folder / "config.json").write_text(json.dumps(found.config))
    (folder / "preprocessor_config.json").write_text(json.dumps(found.processor))
    write_tensors(folder / "model.safetensors", weights(found.shapes, found.seed))
    return folder

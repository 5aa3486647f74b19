"""Rotary positions that are scaled: the tables of ``transformers``, errors that name the kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.errors import ModelError, UnsupportedError
from whet.llm.checkpoints.config import Config
from whet.llm.families.rope_config import rope_of
from whet.llm.graphs.rope import rope_tables

FACTORS = {
    "short_factor": [1.0 + k / 9 for k in range(16)],
    "long_factor": [2.0 + k for k in range(16)],
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn ends": {
        "factor": 16.0,
        "original_max_position_embeddings": 48,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn scales": {
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.707,
        "mscale_all_dim": 0.9,
    },
    "longrope": {"original_max_position_embeddings": 64, **FACTORS},
    "longrope attention": {
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
        **FACTORS,
    },
}


def values(name: str) -> dict[str, Any]:
    given = {"rope_type": name.split()[0], "rope_theta": 10000.0, **KINDS[name]}
    return {"max_position_embeddings": 256, "rope_parameters": given}


@pytest.mark.parametrize("positions", [50, 256])
@pytest.mark.parametrize("name", KINDS)
def test_tables_are_those_of_the_reference(name: str, positions: int) -> None:
    transformers = pytest.importorskip("transformers", reason="it is the reference")
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=1, **values(name)
    )
    rotary = module.LlamaRotaryEmbedding(config)
    at = torch.arange(positions)[None]
    cos, sin = (t[0, :, :16].double().numpy() for t in rotary(torch.zeros(1, 1, 1), at))
    ours = rope_tables(rope_of(Config(values(name), "config.json"), 32), positions)
    assert np.abs(ours[0] - cos).max() < 3e-5
    assert np.abs(ours[1] - sin).max() < 3e-5


def test_old_spellings_mean_the_same() -> None:
    for name in ("yarn", "longrope"):
        new = values(name)
        inner = dict(new["rope_parameters"])
        kind = "su" if name == "longrope" else inner["rope_type"]
        theta, original = inner.pop("rope_theta"), inner.pop("original_max_position_embeddings")
        del inner["rope_type"]
        old = {
            "max_position_embeddings": 256,
            "original_max_position_embeddings": original,
            "rope_theta": theta,
            "rope_scaling": {"type": kind, **inner},
        }
        assert rope_of(Config(old, "c"), 32) == rope_of(Config(new, "c"), 32)


def test_what_means_nothing_is_named() -> None:
    for change, kind, text in (
        ({"rope_type": "dynamic"}, UnsupportedError, "dynamic"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, ModelError, "short_factor"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, ModelError, "mrope_section"),
        ({"rope_type": "yarn", "factor": "four"}, ModelError, "factor"),
        ({"rope_theta": 0}, ModelError, "rope_theta is 0"),
        ({"rope_theta": -2.0}, ModelError, "rope_theta is -2"),
        (
            {"rope_theta": 9.0, "partial_rotary_factor": 1.5},
            ModelError,
            "partial_rotary_factor 1.5",
        ),
    ):
        given = Config({"max_position_embeddings": 64, "rope_parameters": change}, "config.json")
        with pytest.raises(kind, match=text):
            rope_of(given, 32)

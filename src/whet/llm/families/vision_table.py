"""Every family with a vision tower, and the model of any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.families import llava, qwen2_vl, qwen25_vl
from whet.llm.families.table import FAMILIES, architecture_of
from whet.llm.images.vision import Model, Renamed

VISION_FAMILIES: Mapping[str, Callable[[Checkpoint], Model]] = MappingProxyType(
    {
        "llava": llava.llava,
        "qwen2_vl": qwen2_vl.qwen2_vl,
        "qwen2_5_vl": qwen25_vl.qwen25_vl,
    }
)


_PREFIXES = {"gpt2": "transformer.", "gpt_neox": "gpt_neox.", "chatglm": "transformer."}
_HEADS = ("lm_head.", "embed_out.")


def _whole_names(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose tensors are named as in a model with a head.

    Models without one, as the first GPT-2 and those of vectors, are saved without the prefix.
    """
    prefix = _PREFIXES.get(checkpoint.config.text("model_type", ""), "model.")
    if any(name.startswith(prefix) for name in checkpoint.names):
        return checkpoint
    return Renamed(checkpoint, lambda n: n if n.startswith(_HEADS) else f"{prefix}{n}")


def model_of(checkpoint: Checkpoint) -> Model:
    """Return the model that a checkpoint holds, with its vision tower if it has one.

    Raises:
        UnsupportedError: the family is not known.
        ModelError: a value is missing or wrong.
    """
    config = checkpoint.config
    name = config.text("model_type", "")
    if name not in VISION_FAMILIES:
        config.family([*FAMILIES, *VISION_FAMILIES])
        return Model(architecture_of(config), _whole_names(checkpoint))
    found = VISION_FAMILIES[name](checkpoint)
    return replace(found, architecture=replace(found.architecture, pictures=True))

"""Every family, by the ``model_type`` that ``config.json`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from whet.llm.architecture import Architecture
from whet.llm.checkpoints.config import Config
from whet.llm.families import gemma, glm, gpt, llama, moe, olmo, phi3

Family = Callable[[Config], Architecture]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": llama.llama,
        "mistral": llama.llama,
        "qwen2": llama.qwen2,
        "qwen3": llama.qwen3,
        "mixtral": moe.mixtral,
        "qwen2_moe": moe.qwen2_moe,
        "qwen3_moe": moe.qwen3_moe,
        "olmo": olmo.olmo,
        "olmo2": olmo.olmo2,
        "phi3": phi3.phi3,
        "gemma2": gemma.gemma2,
        "gemma3_text": gemma.gemma3,
        "gpt2": gpt.gpt2,
        "gpt_neox": gpt.gpt_neox,
        "glm": glm.glm,
        "glm4": glm.glm4,
        "chatglm": glm.chatglm,
    }
)


def architecture_of(config: Config) -> Architecture:
    """Return the decoder that a configuration describes.

    Raises:
        UnsupportedError: the family is not known.
        ModelError: a value is missing or wrong.
    """
    return FAMILIES[config.family(FAMILIES)](config)

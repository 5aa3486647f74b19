"""Language models: from a checkpoint to tokens.

Nothing is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.llm.engine.sampling import SamplingParams
    from whet.llm.engine.structured import Constraint
    from whet.llm.llm import LLM, Completion
    from whet.llm.prompts import ImagePrompt
    from whet.llm.recipe import LLMInferenceOptimizer
    from whet.llm.source import Source

__all__ = [
    "LLM",
    "Completion",
    "Constraint",
    "ImagePrompt",
    "LLMInferenceOptimizer",
    "SamplingParams",
    "Source",
]

_HOME = {
    "LLM": "whet.llm.llm",
    "Completion": "whet.llm.llm",
    "Constraint": "whet.llm.engine.structured",
    "ImagePrompt": "whet.llm.prompts",
    "LLMInferenceOptimizer": "whet.llm.recipe",
    "SamplingParams": "whet.llm.engine.sampling",
    "Source": "whet.llm.source",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name where it lives, the first time it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'whet.llm' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)

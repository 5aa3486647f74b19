"""What ``generation_config.json`` says of an encoder–decoder: ends, tokens left out, languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.llm.checkpoints.checkpoint import read_json
from whet.llm.checkpoints.config import Config
from whet.llm.seq2seq.engine import Unsaid


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How a checkpoint wants targets to be made.

    Attributes:
        ends: tokens that end a target.
        unsaid: tokens that are never chosen.
        languages: that a Whisper tells apart, such as "en", by token; none for an English one.
    """

    ends: frozenset[int] = frozenset()
    unsaid: Unsaid = field(default_factory=Unsaid)
    languages: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, config: Config) -> GenerationConfig:
        """Read ``generation_config.json`` over ``config.json``, which may say the same."""
        path = folder / "generation_config.json"
        values = {**config.values, **(read_json(path) if path.exists() else {})}
        ends = values.get("eos_token_id")
        always = [*_tokens(values.get("suppress_tokens")), *_alone(values.get("bad_words_ids"))]
        first = _tokens(values.get("begin_suppress_tokens"))
        named = values.get("lang_to_id")
        known = named if isinstance(named, dict) and values.get("is_multilingual", True) else {}
        languages = {t: n.strip("<|>") for n, t in known.items() if isinstance(t, int)}
        found = _tokens(ends if isinstance(ends, list) else [ends])
        return cls(frozenset(found), Unsaid(tuple(always), tuple(first)), languages)


def _tokens(value: Any) -> list[int]:
    return [t for t in value if isinstance(t, int)] if isinstance(value, list) else []


def _alone(value: Any) -> list[int]:
    """Return the words of one token; longer ones are left to the model."""
    words = value if isinstance(value, list) else []
    return [w[0] for w in words if isinstance(w, list) and len(w) == 1 and isinstance(w[0], int)]

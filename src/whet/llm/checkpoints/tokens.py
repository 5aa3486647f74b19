"""Texts to tokens and back, and conversations to prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from whet.errors import ModelError, UnsupportedError
from whet.llm.checkpoints.checkpoint import read_json
from whet.llm.checkpoints.template import render_chat

Message = Mapping[str, Any]


class TextCodec(Protocol):
    """What a tokenizer of the package ``tokenizers`` offers."""

    def encode(
        self, sequence: str, pair: str | None = None, *, add_special_tokens: bool = True
    ) -> Any:
        """Return the encoding of a text, or of two that belong together."""

    def token_to_id(self, token: str) -> int | None:
        """Return the token of a name, ``None`` if there is none."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        codec: what turns texts into tokens.
        ends: tokens that end a completion.
        template: the chat template, "" for none.
        names: names of special tokens, for the template.
    """

    codec: TextCodec
    ends: frozenset[int]
    template: str
    names: Mapping[str, str]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: the text.
            special: whether the tokens that begin or end a text are added.
        """
        return list(self.codec.encode(text, add_special_tokens=special).ids)

    def pair(self, first: str, second: str) -> Any:
        """Return the encoding of two texts: ``ids``, and which of the two they are of."""
        return self.codec.encode(first, second)

    def token_text(self, token: int) -> str:
        """Return the text of one token, a special one's too."""
        return self.codec.decode([token], skip_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self.codec.decode(list(tokens), skip_special_tokens=True)

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        switches: Message | None = None,
    ) -> str:
        """Return the prompt of a conversation, as the checkpoint's template writes it.

        Args:
            messages: what was said.
            tools: functions that the model may call, as the OpenAI API describes them.
            switches: of the template's own, such as ``enable_thinking``.

        The template runs in a sandbox: it cannot reach outside its arguments.

        Raises:
            UnsupportedError: the checkpoint has no template.
            InputError: the template refuses the messages, or is broken or hostile.
        """
        if not self.template:
            raise UnsupportedError(
                "the checkpoint has no chat template", hint="give a prompt instead of messages"
            )
        return render_chat(self.template, messages, self.names, tools, switches)


def open_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint folder, ``None`` if it has none.

    Raises:
        ModelError: its file is damaged.
        UnsupportedError: the package ``tokenizers`` is missing.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        from tokenizers import Tokenizer as Codec
    except ImportError as error:
        raise UnsupportedError(
            "the package tokenizers is not installed", hint="pip install 'whet[llm]'"
        ) from error
    try:
        codec = Codec.from_file(str(path))
    except Exception as error:  # the package raises plain exceptions
        raise ModelError(
            f"the tokenizer cannot be read: {error}"[:300],
            where=str(path),
            hint="download the checkpoint again",
        ) from error
    facts = _optional(folder / "tokenizer_config.json")
    names = {k: _token_text(v) for k, v in facts.items() if k.endswith("_token") and v}
    return Tokenizer(codec, _ends(folder, codec, names), _template(folder, facts), names)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _token_text(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _template(folder: Path, facts: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = facts.get("chat_template", "")
    if isinstance(found, list):
        named = {str(t.get("name")): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default", "")
    return found if isinstance(found, str) else ""


def _ends(folder: Path, codec: Any, names: Mapping[str, str]) -> frozenset[int]:
    """Return the tokens that end a text, from wherever the checkpoint says it."""
    found: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        value = _optional(folder / file).get("eos_token_id")
        many = value if isinstance(value, list) else [value]
        found |= {v for v in many if isinstance(v, int)}
    own = codec.token_to_id(names["eos_token"]) if "eos_token" in names else None
    return frozenset(found if own is None else found | {own})

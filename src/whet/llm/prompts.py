"""Prompts as callers give them: texts, tokens, conversations, any of them with images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError, UnsupportedError
from whet.llm.checkpoints.tokens import Message, Tokenizer
from whet.llm.engine.engine import Engine
from whet.llm.images.image_encoder import ImageEncoder
from whet.llm.images.image_prompt import Encoded, Pictured, with_images
from whet.llm.images.images import image_of
from whet.words import counted

MOST_IMAGES = 64
"""Images of one prompt."""

Ready = list[int] | Pictured
"""A prompt as the engine takes it."""


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrompt:
    """A prompt with images.

    Attributes:
        prompt: a text or tokens, in which the model's own token stands where an image belongs.
        images: in order: arrays of bytes [height, width, 3], images of Pillow, encoded bytes,
            a ``Path``, or a text with a ``data:`` URL.
    """

    prompt: str | Sequence[int]
    images: Sequence[object]


Prompt = str | Sequence[int] | ImagePrompt


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A prompt whose images are being encoded.

    Attributes:
        tokens: with a marker for every image.
        images: what is encoded.
        marker: the token that stands for an image, -1 where the model takes none.
        turned: whether features have positions by row and column.
    """

    tokens: list[int]
    images: Sequence[Future[Encoded]] = ()
    marker: int = -1
    turned: bool = False

    @property
    def ready(self) -> bool:
        """Whether all images are encoded."""
        return all(image.done() for image in self.images)

    def result(self) -> Ready:
        """Wait for the images and return the prompt."""
        if not self.images:
            return self.tokens
        images = [image.result() for image in self.images]
        return with_images(self.tokens, images, self.marker, turned=self.turned)


class PromptReader:
    """Makes prompts ready.

    Args:
        tokenizer: the checkpoint's, ``None`` where it has none.
        vocabulary: number of tokens.
        encoder: encodes images, ``None`` where the model takes none.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, vocabulary: int, encoder: ImageEncoder | None
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.encoder = encoder

    @property
    def text(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            InputError: the checkpoint has none.
        """
        if self._tokenizer is None:
            raise InputError(
                "the checkpoint has no tokenizer.json", hint="give tokens instead of text"
            )
        return self._tokenizer

    def tokens(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the tokens of a prompt, checked against the vocabulary."""
        if isinstance(prompt, str):
            return self.text.encode(prompt)
        tokens = [int(t) for t in prompt]
        wrong = [t for t in tokens if not 0 <= t < self._vocabulary]
        if wrong:
            raise InputError(
                f"the prompt has token {wrong[0]}",
                hint=f"the model knows 0 to {self._vocabulary - 1}",
            )
        return tokens

    def begin(self, prompt: Prompt) -> Pending:
        """Return a prompt whose images begin to be encoded.

        Raises:
            InputError: it has unknown tokens, or an image is none.
            UnsupportedError: the model takes no images.
        """
        if not isinstance(prompt, ImagePrompt):
            return Pending(self.tokens(prompt))
        return self._pending(self.tokens(prompt.prompt), prompt.images)

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        switches: Message | None = None,
    ) -> Pending:
        """Return the prompt of a conversation, whose images begin to be encoded.

        Raises:
            UnsupportedError: the checkpoint has no chat template, or takes no images.
            InputError: the template refuses the messages, or an image is none.
        """
        images: list[object] = []
        lists = self.encoder is not None
        plain = [_message(message, images, lists=lists) for message in messages]
        tokens = self.text.encode(self.text.chat(plain, tools, switches), special=False)
        return self._pending(tokens, images)

    def _pending(self, tokens: list[int], images: Sequence[object]) -> Pending:
        if self.encoder is None:
            if images:
                raise UnsupportedError("the model takes no images", hint="leave them out")
            return Pending(tokens)
        if len(images) > MOST_IMAGES:
            raise InputError(
                f"the prompt has {counted(len(images), 'image')}", hint=f"at most {MOST_IMAGES}"
            )
        vision = self.encoder.vision
        if tokens.count(vision.token) != len(images):
            raise InputError(
                f"the prompt has {counted(tokens.count(vision.token), 'place')} for "
                f"{counted(len(images), 'image')}",
                hint="the model's image token stands for an image, and belongs nowhere else",
            )
        coming = self.encoder.submit([image_of(image) for image in images])
        return Pending(tokens, coming, vision.token, vision.turned)


def _message(message: Message, images: list[object], *, lists: bool) -> Message:
    """Return a message whose images are markers for the template; they are added to ``images``.

    Templates of models with a vision tower want lists of parts; others want texts.
    """
    message = _plain(message)
    content = message.get("content")
    if isinstance(content, str) and lists:
        return {**message, "content": [{"type": "text", "text": content}]}
    if not isinstance(content, list):
        return message
    parts = [_part(part, images) for part in content]
    if lists or any(part["type"] == "image" for part in parts):
        return {**message, "content": parts}
    return {**message, "content": "".join(part["text"] for part in parts)}


def _plain(message: Message) -> Message:
    """Return a message as templates expect it: arguments of calls as values, no missing content."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    return {**message, "content": message.get("content") or "", "tool_calls": [*map(_call, calls)]}


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments, str):
        return call
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        return call  # a template may still write it as it is
    return {**call, "function": {**function, "arguments": values}}


def _part(part: Any, images: list[object]) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image" and part.get("image") is not None:
        images.append(part["image"])
        return {"type": "image"}
    if kind == "image_url":
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, Mapping) else given
        if isinstance(url, str):
            images.append(url)
            return {"type": "image"}
    raise InputError(
        f"a part of a message is {kind!r}, or misses what it is of",
        hint="text, image_url with a data: URL, and from Python image are known",
    )


def run_together(
    engine: Engine, pending: Sequence[Pending], add: Callable[[Ready], list[int]], into: list[int]
) -> None:
    """Run prompts to their ends; those that are ready run while images of others are encoded.

    Args:
        engine: what runs them.
        pending: the prompts.
        add: queues a prompt and returns the numbers of its requests.
        into: gets these numbers, in the order of the prompts.
    """
    left = list(range(len(pending)))
    numbers: dict[int, list[int]] = {}
    try:
        while left or any(not engine.requests[n].reason for ns in numbers.values() for n in ns):
            for k in [k for k in left if pending[k].ready]:
                numbers[k] = add(pending[k].result())
                left.remove(k)
            if engine.busy:
                engine.step()
            elif left:
                pending[left[0]].result()
    finally:
        into += [n for k in sorted(numbers) for n in numbers[k]]

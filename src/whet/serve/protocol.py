"""Requests as the OpenAI API spells them, and what the engine makes of them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, TypeVar

import msgspec

from whet.errors import InputError
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.structured import Constraint
from whet.serve.formats import constraint_of

Request = TypeVar("Request", bound=msgspec.Struct)

REFUSED = (
    "functions",
    "function_call",
    "suffix",
    "echo",
    "audio",
    "modalities",
    "prediction",
    "web_search_options",
    "min_tokens",
    "prompt_logprobs",
    "logits_processors",
    "chat_template",
    "continue_final_message",
)
"""What clients may ask for and Whet does not do; left out silently, it would be a wrong answer."""


_OF_THEMSELVES = ("user", "metadata", "store", "service_tier", "safety_identifier")
"""What clients say that changes no answer."""

_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "n",
    "best_of",
    "seed",
)
"""What is called the same here and there."""


_NOT_BEAMS = (
    "stream",
    "stop",
    "logprobs",
    "tools",
    "response_format",
    "guided_regex",
    "guided_grammar",
    "guided_json",
    "guided_choice",
    "stop_token_ids",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "ignore_eos",
)
"""What beam search does not heed, and would be left out silently."""


class Sampled(msgspec.Struct):
    """What completions and chats have in common; ``None`` stands for the default."""

    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    use_beam_search: bool = False
    length_penalty: float = 1.0
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_choice: list[str] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    priority: int = 0

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many of the likeliest tokens are reported at each position; ``None`` for none."""
        return None

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool((self.stream_options or {}).get("include_usage"))

    def params(self, default_tokens: int, constraint: Constraint | None = None) -> SamplingParams:
        """Return how to sample.

        Raises:
            OptionError: a value means nothing.
            InputError: a key of ``logit_bias`` is no token.
        """
        given = {name: getattr(self, name) for name in _SAME if getattr(self, name) is not None}
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        tokens = self.max_completion_tokens
        tokens = self.max_tokens if tokens is None else tokens
        return SamplingParams(
            **{"temperature": 1.0, **given},
            max_tokens=default_tokens if tokens is None else tokens,
            stop=tuple(stop),
            stop_tokens=tuple(self.stop_token_ids or ()),
            logit_bias=_biases(self.logit_bias or {}),
            ignore_eos=self.ignore_eos,
            logprobs=self.top_logprobs_wanted,
            constraint=constraint,
        )

    def constraint(self) -> Constraint | None:
        """Return what the text has to look like.

        Raises:
            InputError: the format is not known, or more than one is given.
        """
        guided = {
            "json_schema": self.guided_json,
            "regex": self.guided_regex,
            "grammar": self.guided_grammar,
            "choice": self.guided_choice,
        }
        return constraint_of(self.response_format, guided)

    def check_beams(self) -> None:
        """Refuse what a search for the likeliest whole completions does not heed.

        Raises:
            InputError: something of it is asked for.
        """
        odd = [name for name in _NOT_BEAMS if getattr(self, name, None)]
        if odd:
            raise InputError(
                f"use_beam_search goes without {odd[0]}", where="body", hint="leave one of them out"
            )


class Completions(Sampled):
    """The body of ``/v1/completions``."""

    prompt: str | list[str | int | list[int]] = ""
    logprobs: int | None = None

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many of the likeliest tokens are reported at each position; ``None`` for none."""
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one.

        Raises:
            InputError: tokens and texts are mixed.
        """
        return listed(self.prompt)


class Chat(Sampled):
    """The body of ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = []
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many of the likeliest tokens are reported at each position; ``None`` for none."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Embeddings(msgspec.Struct):
    """The body of ``/v1/embeddings``."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class Rerank(msgspec.Struct):
    """The body of ``/v1/rerank``."""

    query: str
    documents: list[str | dict[str, Any]]
    model: str = ""
    top_n: int | None = None
    return_documents: bool = False

    def texts(self) -> list[str]:
        """Return the texts of the documents.

        Raises:
            InputError: a document has none.
        """
        found = [d if isinstance(d, str) else d.get("text") for d in self.documents]
        for number, text in enumerate(found):
            if not isinstance(text, str):
                hint = 'give a text, or {"text": …}'
                raise InputError(f"document {number} has no text", where="body", hint=hint)
        return [text for text in found if isinstance(text, str)]

    def first(self, count: int) -> int:
        """Return how many of the best are wanted.

        Raises:
            InputError: none are.
        """
        if self.top_n is not None and self.top_n < 1:
            raise InputError(f"top_n is {self.top_n}", where="body", hint="give 1 or more")
        return count if self.top_n is None else self.top_n


def parse(body: bytes, kind: type[Request]) -> Request:
    """Return a request.

    Raises:
        InputError: the body is no JSON object of that kind, asks for what is not done, or has a
            key that is another one misspelt; whatever else clients say of themselves is left out.
    """
    try:
        found = msgspec.json.decode(body)
        request = msgspec.convert(found, kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"the request is malformed: {error}", where="body") from error
    refused = [key for key in REFUSED if found.get(key)]
    if refused:
        raise InputError(f"{refused[0]} is not supported", where="body", hint="leave it out")
    known = [field.name for field in msgspec.structs.fields(kind)]
    for key in found.keys() - set(known) - {*REFUSED, *_OF_THEMSELVES}:
        close = get_close_matches(key, known, n=1, cutoff=0.8)
        if close:
            raise InputError(f"{key!r} is no key", where="body", hint=f"did you mean {close[0]!r}?")
    return request


def listed(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Return texts, or lists of tokens, one by one.

    Raises:
        InputError: tokens and texts are mixed.
    """
    if isinstance(given, str):
        return [given]
    tokens = [p for p in given if isinstance(p, int)]
    if not tokens:
        return [p for p in given if not isinstance(p, int)]
    if len(tokens) < len(given):
        raise InputError("the prompt mixes tokens and texts", where="body")
    return [tokens]


def _biases(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError as error:
        raise InputError(f"logit_bias: {error}", where="body", hint="keys are tokens") from error

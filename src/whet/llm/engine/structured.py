"""Texts of a given form: which tokens may come next, so that the result matches.

The library ``llguidance`` keeps the state and computes masks; its limits bound what a grammar may
cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array

Kind = Literal["json", "json_schema", "regex", "grammar"]

MAX_GRAMMAR_BYTES = 256 << 10

_SPACES = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}"}
"""Space between parts of JSON: enough for indentation, too little to never come to an end with."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion has to look like.

    Attributes:
        kind: any JSON object, JSON of a schema, a regular expression, or a grammar in Lark's
            syntax.
        text: the schema, expression or grammar; "" for any JSON object.
    """

    kind: Kind
    text: str = ""


class Matcher(Protocol):
    """Follows one completion."""

    @property
    def complete(self) -> bool:
        """Whether the text matches and nothing may follow."""

    def allowed(self, count: int) -> Array:
        """Return for each of ``count`` tokens whether it may come next; one does."""

    def take(self, token: int) -> None:
        """Note the token that came."""

    def copy(self) -> Matcher:
        """Return another that has seen the same tokens."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """Allows some tokens, again and again."""

    tokens: frozenset[int]

    @property
    def complete(self) -> bool:
        """Nothing has to follow, everything may."""
        return False

    def allowed(self, count: int) -> Array:
        """Return for each token whether it is one of them."""
        found = np.zeros(count, bool)
        found[[t for t in self.tokens if 0 <= t < count]] = True
        return found

    def take(self, token: int) -> None:
        """Note the token that came: it changes nothing."""

    def copy(self) -> Matcher:
        """Return itself, which does not change."""
        return self


class Grammars:
    """Makes matchers for one tokenizer.

    Args:
        codec: the tokenizer, of the package ``tokenizers``.
        ends: tokens that end a text; there has to be one.
        vocabulary: number of tokens.

    Raises:
        UnsupportedError: the package ``llguidance`` is missing, or the tokenizer does not fit it.
    """

    def __init__(self, codec: Any, ends: frozenset[int], vocabulary: int) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise UnsupportedError(
                "the package llguidance is not installed", hint="pip install 'whet[structured]'"
            ) from error
        known = [t for t in sorted(ends) if t < vocabulary]
        if not known:
            raise UnsupportedError(
                "the checkpoint names no token that ends a text",
                hint="give eos_token_id in its config.json",
            )
        try:
            self._tokenizer = LLTokenizer(codec.to_str(), n_vocab=vocabulary, eos_token=known[0])
        except Exception as error:  # the package raises plain exceptions
            raise UnsupportedError(
                f"the tokenizer cannot follow grammars: {error}"[:300],
                hint="ask without response_format",
            ) from error

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return a matcher at its start.

        Raises:
            InputError: the schema, expression or grammar is malformed or too large.
        """
        from llguidance import LLMatcher

        if len(constraint.text) > MAX_GRAMMAR_BYTES:
            raise _wrong(constraint, f"it has more than {MAX_GRAMMAR_BYTES} characters")
        try:
            grammar = _grammar(LLMatcher, constraint)
        except ValueError as error:
            raise _wrong(constraint, str(error)) from error
        found = LLMatcher(self._tokenizer, grammar, log_level=0)
        if found.is_error():
            raise _wrong(constraint, str(found.get_error()))
        return _Guided(found)


def _grammar(matcher: Any, constraint: Constraint) -> Any:
    if constraint.kind == "json":
        return matcher.grammar_from_json_schema({"type": "object"}, overrides=_SPACES)
    if constraint.kind == "json_schema":
        schema = json.loads(constraint.text)
        if not isinstance(schema, dict | bool):
            raise ValueError("a schema is an object")
        return matcher.grammar_from_json_schema(json.dumps(schema), overrides=_SPACES)
    if constraint.kind == "regex":
        return matcher.grammar_from_regex(constraint.text)
    return matcher.grammar_from_lark(constraint.text)


def _wrong(constraint: Constraint, reason: str) -> InputError:
    return InputError(
        f"the {constraint.kind} cannot be followed: {reason}"[:500],
        where="response_format",
        hint="mend it, or ask without",
    )


class _Guided:
    """A matcher of ``llguidance``."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the text matches and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, count: int) -> Array:
        """Return for each token whether it may come next."""
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(words, bitorder="little")[:count].astype(bool)
        if self._matcher.is_error() or not bits.any():
            raise InputError(
                f"the grammar went too far: {self._matcher.get_error()}"[:500],
                where="response_format",
                hint="simplify it",
            )
        return np.pad(bits, (0, count - bits.size))

    def take(self, token: int) -> None:
        """Note the token that came."""
        self._matcher.consume_token(token)

    def copy(self) -> Matcher:
        """Return another that has seen the same tokens."""
        return _Guided(self._matcher.deep_copy())

"""How the next token is chosen: parameters, and the choice itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from whet.errors import OptionError
from whet.llm.architecture import Array
from whet.llm.engine.structured import Constraint, Matcher

MAX_LOGPROBS = 64

DEPTHS = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)
"""How far below the largest logit tokens are looked for, one after another."""

MARGIN = 1e-9
"""Share of all weights by which sums in different orders do not differ."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a completion is sampled.

    Attributes:
        max_tokens: most tokens to generate.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only so many of the likeliest tokens are drawn from; 0 for all.
        top_p: only the likeliest tokens that together have this probability are drawn from.
        min_p: tokens less likely than this part of the likeliest are not drawn.
        repetition_penalty: positive logits of tokens seen are divided by it, negative multiplied.
        presence_penalty: taken off the logits of tokens generated before.
        frequency_penalty: taken off for each time that a token was generated before.
        logit_bias: added to logits, by token.
        seed: makes the draws repeatable, whatever else runs; ``None`` for a random one.
        n: completions of each prompt.
        best_of: completions made of each prompt, of which the ``n`` likeliest a token are given.
        stop: texts that end a completion; they are not part of it.
        stop_tokens: tokens that end a completion; they are not part of its text.
        ignore_eos: whether the model's end token is a token like any other.
        logprobs: how many of the likeliest tokens to report at every position; ``None`` for none.
        constraint: what the text has to look like; ``None`` for anything.
        adapter: name of one of the adapters that the model was loaded with; "" for none.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    n: int = 1
    best_of: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            OptionError: one does; it is named.
        """
        rules = (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "more than 0"),
            ("n", 1 <= self.n <= 128, "1 to 128"),
            ("best_of", self.n <= (self.best_of or self.n) <= 128, "n to 128"),
            (
                "stop",
                all(self.stop) and not isinstance(self.stop, str),
                "texts, none of them empty",
            ),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "0 to 64"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise OptionError(f"{name} is {getattr(self, name)!r}", hint=f"give {wanted}")

    @property
    def drawn(self) -> int:
        """Completions made of each prompt."""
        return self.best_of or self.n

    @property
    def reported(self) -> int | None:
        """How many of the likeliest tokens to note; ``best_of`` needs the chosen one's."""
        return 0 if self.logprobs is None and self.drawn > self.n else self.logprobs


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token and, if asked for, log probabilities of the likeliest and of itself."""

    token: int
    logprobs: Mapping[int, float] | None = None


class Sampler:
    """Chooses the tokens of one completion; draws depend on its own seed alone.

    Args:
        params: how.
        index: which of several completions of one prompt it is.
        matcher: says which tokens may come; ``None`` for all.
    """

    def __init__(
        self, params: SamplingParams, index: int = 0, matcher: Matcher | None = None
    ) -> None:
        self._params = params
        self._matcher = matcher
        seed = None if params.seed is None else [params.seed & (2**64 - 1), index]
        self._random = np.random.default_rng(seed)

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher is not None and self._matcher.complete

    def choose(self, logits: Array, prompt: Sequence[int], output: Sequence[int]) -> Choice:
        """Return the next token, given its logits and what came before."""
        params = self._params
        scores = _penalised(logits, params, prompt, output)
        if self._matcher is not None:
            scores[~self._matcher.allowed(scores.size)] = -np.inf
        token = int(scores.argmax()) if params.temperature == 0 else self._draw(scores)
        if self._matcher is not None:
            self._matcher.take(token)
        if params.reported is None:
            return Choice(token)
        return Choice(token, _top(logits, token, params.reported))

    def _draw(self, scores: Array) -> int:
        """Draw a token: the likeliest come first, of equal ones those of smaller numbers."""
        params, share = self._params, self._random.random()
        scaled = scores.astype(np.float64) / params.temperature
        order, whole = _likeliest(scaled, params, share)
        weights = np.exp(scaled[order] - scaled[order[0]])
        weights /= weights.sum() if whole is None else whole
        kept = weights >= params.min_p * weights[0]
        reached = np.cumsum(weights)
        kept &= reached - weights < params.top_p
        count = int(kept.sum())
        unlimited = whole is not None and params.top_p == 1 and not params.min_p
        total = 1.0 if unlimited else reached[count - 1]
        place = np.searchsorted(reached, share * total, "right")
        return int(order[min(int(place), count - 1)])


def _likeliest(scaled: Array, params: SamplingParams, share: float) -> tuple[Array, float | None]:
    """Return as many of the likeliest tokens, in order, as a draw can come to.

    Few of them have nearly all probability, so that sorting all would take most of the time. The
    second result is what their weights are divided by, those of all tokens; ``None`` for their own
    sum, where ``top_k`` or the number of tokens limits them.
    """
    top = scaled.max()
    whole = float(np.exp(scaled - top).sum())
    unlimited = params.top_p == 1 and not params.min_p
    wanted = share if unlimited else params.top_p
    for depth in DEPTHS:
        found = np.flatnonzero(scaled >= top - depth)
        if params.top_k:
            enough = len(found) >= params.top_k
        else:
            reached = float(np.exp(scaled[found] - top).sum()) > (wanted + MARGIN) * whole
            enough = reached or np.exp(-depth) < params.min_p
        if enough:
            break
    order = found[np.argsort(-scaled[found], kind="stable")]
    if params.top_k:
        return order[: params.top_k], None
    return order, None if len(order) == len(scaled) else whole


def _penalised(
    logits: Array, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Array:
    """Return the logits with penalties and biases, in float32."""
    scores = logits.astype(np.float32, copy=True)
    if params.repetition_penalty != 1.0 and (prompt or output):
        seen = np.unique(np.array([*prompt, *output]))
        seen = seen[seen >= 0]  # features of images are no tokens of the vocabulary
        low = scores[seen] < 0
        factor = np.where(low, params.repetition_penalty, 1 / params.repetition_penalty)
        scores[seen] *= factor.astype(np.float32)
    if output and (params.presence_penalty or params.frequency_penalty):
        seen, counts = np.unique(np.array(output), return_counts=True)
        scores[seen] -= (params.presence_penalty + params.frequency_penalty * counts).astype(
            np.float32
        )
    for token, bias in params.logit_bias.items():
        if 0 <= token < scores.size:
            scores[token] += np.float32(bias)
    return scores


def _top(logits: Array, token: int, count: int) -> dict[int, float]:
    wide = logits.astype(np.float64)
    top = wide.max()
    total = top + np.log(np.exp(wide - top).sum())
    best = np.argsort(-wide, kind="stable")[:count]
    return {int(t): float(wide[t] - total) for t in (*best, token)}

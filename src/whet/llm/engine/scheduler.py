"""Which tokens run next: pure bookkeeping over requests and pages.

A request has tokens and a number of them that are computed; a step closes the gap. There are no
phases: a prompt, a part of one, and the one token of a request that generates are the same thing.
Requests that run come first, the most urgent and oldest of them first. If pages are short, the
least urgent and newest loses its own, and starts over later, from what the cache still holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from whet.errors import InputError, ResourceError
from whet.kernel.paged import PAGE
from whet.llm.engine.pages import ROOT, PagePool, page_key
from whet.llm.images.image_prompt import PromptImages
from whet.words import counted


@dataclass(slots=True)
class Track:
    """One completion in the making.

    Attributes:
        number: identity, in order of arrival.
        tokens: the prompt and what was generated.
        limit: most tokens that it may come to have.
        priority: smaller is more urgent.
        pages: its pages of the cache.
        computed: how many of its tokens are in the cache.
        keys: keys of its whole pages that are published.
        cached: tokens that it found in the cache when it started.
        guess: tokens that may follow, to be checked by the next step.
        images: of the prompt, ``None`` for none.
        root: key in front of its first page: sequences of different adapters share none.
    """

    number: int
    tokens: list[int]
    limit: int
    priority: int = 0
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    keys: list[bytes] = field(default_factory=list)
    cached: int = 0
    guess: list[int] = field(default_factory=list)
    images: PromptImages | None = None
    root: bytes = ROOT

    @property
    def rank(self) -> tuple[int, int]:
        """Order of urgency."""
        return self.priority, self.number


@dataclass(frozen=True, slots=True)
class Share:
    """A sequence's part of a step: its tokens from ``start`` on, ``count`` of them.

    Where ``last`` says that those are all, ``guessed`` tokens of its guess follow.
    """

    number: int
    start: int
    count: int
    last: bool
    guessed: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a step may take.

    Attributes:
        step_tokens: tokens of a step.
        sequences: sequences that run at once.
        context: tokens that a sequence may have.
        keep: whether keys and values are kept from token to token; else each token computes all
            before it again, which is there to show what the cache is worth.
    """

    step_tokens: int = 512
    sequences: int = 16
    context: int = 2048
    keep: bool = True


class Scheduler:
    """Plans steps. Between ``plan`` and ``done`` nothing else may be called.

    Args:
        pool: the pages.
        limits: how much a step may take.
    """

    def __init__(self, pool: PagePool, limits: Limits) -> None:
        self.pool = pool
        self.limits = limits
        self.waiting: dict[int, Track] = {}
        self.running: dict[int, Track] = {}
        self.preemptions = 0
        self._next = 0

    def add(
        self,
        prompt: Sequence[int],
        new: int,
        priority: int = 0,
        images: PromptImages | None = None,
        root: bytes = ROOT,
    ) -> int:
        """Queue a prompt that up to ``new`` tokens are to follow; return its number.

        Prompts share pages only where their ``root`` is the same.

        Raises:
            InputError: the prompt is empty or longer than the context.
            ResourceError: the cache could never hold it.
        """
        if not prompt:
            raise InputError("the prompt has no tokens", hint="give at least one")
        if len(prompt) >= self.limits.context:
            raise InputError(
                f"the prompt has {counted(len(prompt), 'token')}, "
                f"the context {self.limits.context}",
                hint="shorten the prompt, or load the model with a larger context",
            )
        limit = min(len(prompt) + new, self.limits.context)
        if -(-limit // PAGE) > self.pool.count:
            raise ResourceError(
                f"a cache of {self.pool.count * PAGE} has no room for {counted(limit, 'token')}",
                hint="load the model with a larger cache, or ask for fewer tokens",
            )
        number, self._next = self._next, self._next + 1
        found = Track(number, list(prompt), limit, priority, images=images, root=root)
        self.waiting[number] = found
        return number

    def find(self, number: int) -> Track:
        """Return a sequence that waits or runs."""
        return self.running[number] if number in self.running else self.waiting[number]

    def finish(self, number: int) -> None:
        """Forget a sequence that is complete or cancelled; its pages become free."""
        sequence = self.running.pop(number, None) or self.waiting.pop(number, None)
        if sequence is not None:
            self.pool.give_back(sequence.pages)
            sequence.pages = []

    def plan(self) -> list[Share]:
        """Return what the next step computes; empty only if nothing waits or runs."""
        budget = self.limits.step_tokens
        shares: list[Share] = []
        for sequence in sorted(self.running.values(), key=lambda s: s.rank):
            if sequence.number in self.running and budget:
                budget -= self._grow(sequence, budget, shares)
        planned = {share.number for share in shares}
        for sequence in sorted(self.waiting.values(), key=lambda s: s.rank):
            if not budget or len(self.running) >= self.limits.sequences:
                break
            if not self._start(sequence):
                break
            planned.add(sequence.number)
            budget -= self._grow(sequence, budget, shares)
        return [share for share in shares if share.number in self.running]

    def _grow(self, sequence: Track, budget: int, shares: list[Share]) -> int:
        """Plan as many tokens as budget and pages allow; return how many."""
        count = min(len(sequence.tokens) - sequence.computed, budget)
        wanted = -(-(sequence.computed + count) // PAGE)
        while len(sequence.pages) < wanted:
            page = self.pool.take()
            if page is not None:
                sequence.pages.append(page)
            elif not self._preempt(sequence, shares):
                break
        count = min(count, len(sequence.pages) * PAGE - sequence.computed)
        if count <= 0 or sequence.number not in self.running:
            return 0
        last = sequence.computed + count == len(sequence.tokens)
        guessed = self._room(sequence, budget - count) if last else 0
        shares.append(Share(sequence.number, sequence.computed, count, last, guessed))
        return count + guessed

    def _room(self, sequence: Track, budget: int) -> int:
        """Return for how many guessed tokens there is room; nobody loses pages for a guess."""
        guessed = min(len(sequence.guess), budget)
        wanted = -(-(len(sequence.tokens) + guessed) // PAGE)
        while len(sequence.pages) < wanted:
            page = self.pool.take()
            if page is None:
                break
            sequence.pages.append(page)
        return min(guessed, len(sequence.pages) * PAGE - len(sequence.tokens))

    def _preempt(self, asking: Track, shares: list[Share]) -> bool:
        """Take the pages of the least urgent sequence that is less urgent than the one asking.

        Where that is the one asking, it keeps what it has, unless it has planned nothing that
        could run: then it waits. Returns whether pages became free for it.
        """
        victim = max(self.running.values(), key=lambda s: s.rank)
        if victim is asking:
            return False
        shares[:] = [share for share in shares if share.number != victim.number]
        self._stop(victim)
        return True

    def _stop(self, victim: Track) -> None:
        self.pool.give_back(victim.pages)
        del self.running[victim.number]
        victim.pages, victim.keys, victim.computed, victim.guess = [], [], 0, []
        self.waiting[victim.number] = victim
        self.preemptions += 1

    def _start(self, sequence: Track) -> bool:
        """Move a sequence to those that run, with the prefix that the cache holds.

        At least one token is left to compute, as its logits are wanted. Returns whether there are
        pages to go on with.
        """
        found = self.pool.find(sequence.tokens[: len(sequence.tokens) - 1], sequence.root)
        needed = -(-len(sequence.tokens) // PAGE) - len(found)
        if self.running and needed > self.pool.free:
            self.pool.give_back(found)
            return False
        sequence.pages = found
        sequence.computed = sequence.cached = len(found) * PAGE
        sequence.keys = _keys(sequence, len(found))
        del self.waiting[sequence.number]
        self.running[sequence.number] = sequence
        return True

    def done(self, shares: Sequence[Share]) -> None:
        """Note that a step has run: pages that became whole are published."""
        for share in shares:
            sequence = self.running[share.number]
            sequence.guess = []
            if self.limits.keep:
                self._computed(sequence, share.start + share.count)
            else:
                sequence.computed = 0 if share.last else share.start + share.count

    def accept(self, number: int, count: int) -> None:
        """Note that ``count`` guessed tokens were right: they are in the cache already.

        They have to be among the sequence's tokens. Keys and values of wrong guesses are written
        over by the next step.
        """
        sequence = self.find(number)
        self._computed(sequence, sequence.computed + count)

    def _computed(self, sequence: Track, count: int) -> None:
        sequence.computed = count
        for k in range(len(sequence.keys), count // PAGE):
            part = sequence.tokens[k * PAGE : (k + 1) * PAGE]
            key = page_key(sequence.keys[-1] if sequence.keys else sequence.root, part)
            sequence.keys.append(key)
            self.pool.publish(sequence.pages[k], key, part)


def _keys(sequence: Track, pages: int) -> list[bytes]:
    keys: list[bytes] = []
    for k in range(pages):
        part = sequence.tokens[k * PAGE : (k + 1) * PAGE]
        keys.append(page_key(keys[-1] if keys else sequence.root, part))
    return keys

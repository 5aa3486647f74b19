"""Pages and scheduler: no page is lost, shared wrongly or given back twice, whatever happens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from whet.errors import InputError, ResourceError
from whet.kernel.paged import PAGE
from whet.llm.engine.pages import ROOT, PagePool, page_key
from whet.llm.engine.scheduler import Limits, Scheduler, Share

PAGES, CONTEXT = 7, 5 * PAGE


class Machine(RuleBasedStateMachine):
    """Requests come, run, end and are cancelled; ``held`` is what the pages' memory would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(PagePool(PAGES), Limits(50, 3, CONTEXT))
        self.held: dict[tuple[int, int], tuple[int, ...]] = {}

    @rule(
        common=st.integers(0, 3 * PAGE),
        own=st.lists(st.integers(0, 2), min_size=1, max_size=40),
        new=st.integers(1, 40),
        priority=st.integers(0, 2),
    )
    def add(self, common: int, own: list[int], new: int, priority: int) -> None:
        """Queue a prompt that shares a prefix with others."""
        self.scheduler.add([7] * common + own, new, priority)

    @rule(
        token=st.integers(0, 2),
        guess=st.lists(st.integers(0, 2), max_size=40),
        right=st.integers(0, 40),
    )
    def step(self, token: int, guess: list[int], right: int) -> None:
        """Run a step in which every sequence gets the same token behind right guesses."""
        for track in self.scheduler.running.values():
            track.guess = guess[: max(track.limit - len(track.tokens) - 1, 0)]
        shares = self.scheduler.plan()
        assert shares or not (self.scheduler.running or self.scheduler.waiting)
        taken = sum(share.count + share.guessed for share in shares)
        assert taken <= self.scheduler.limits.step_tokens
        assert len({share.number for share in shares}) == len(shares)
        assert all(share.last or not share.guessed for share in shares)
        for share in shares:
            self.write(share)
        self.scheduler.done(shares)
        for share in shares:
            track = self.scheduler.find(share.number)
            if share.last:
                accepted = guess[: min(right, share.guessed)]
                track.tokens += [*accepted, token]
                self.scheduler.accept(share.number, len(accepted))
                if len(track.tokens) >= track.limit:
                    self.scheduler.finish(share.number)

    def write(self, share: Share) -> None:
        """Put the step's tokens into the pages, and see that all before them are there."""
        track = self.scheduler.find(share.number)
        assert share.count > 0 and share.start == track.computed
        tokens = [*track.tokens, *track.guess[: share.guessed]]
        for position in range(share.start, share.start + share.count + share.guessed):
            page = track.pages[position // PAGE]
            assert self.scheduler.pool.users(page) == 1, "a shared page is written"
            self.held[page, position % PAGE] = tuple(tokens[: position + 1])
        for position in range(share.start + share.count):
            held = self.held[track.pages[position // PAGE], position % PAGE]
            assert held == tuple(track.tokens[: position + 1]), "another prefix is read"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """End any sequence."""
        numbers = sorted({*self.scheduler.running, *self.scheduler.waiting})
        if numbers:
            self.scheduler.finish(data.draw(st.sampled_from(numbers)))

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        """Every page is free or in the lists of those who use it."""
        pool = self.scheduler.pool
        uses = Counter(p for track in self.scheduler.running.values() for p in track.pages)
        assert all(pool.users(page) == uses[page] for page in range(PAGES))
        assert pool.free == sum(1 for page in range(PAGES) if not uses[page])
        assert not any(track.pages for track in self.scheduler.waiting.values())
        assert len(self.scheduler.running) <= self.scheduler.limits.sequences


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def test_everything_finishes() -> None:
    scheduler = Scheduler(PagePool(PAGES), Limits(50, 5, CONTEXT))
    for k in range(12):
        scheduler.add([k] * (3 * PAGE), 2 * PAGE, priority=k % 3)
    for _ in range(5000):
        shares = scheduler.plan()
        scheduler.done(shares)
        for share in shares:
            track = scheduler.find(share.number)
            if share.last:
                track.tokens.append(1)
                if len(track.tokens) >= track.limit:
                    scheduler.finish(share.number)
        if not shares:
            break
    assert not scheduler.running and not scheduler.waiting
    assert scheduler.pool.free == PAGES


def test_prefixes_are_found_whole() -> None:
    pool = PagePool(4)
    tokens = list(range(2 * PAGE))
    pages = [page for page in (pool.take(), pool.take()) if page is not None]
    first = page_key(ROOT, tokens[:PAGE])
    pool.publish(pages[0], first, tokens[:PAGE])
    pool.publish(pages[1], page_key(first, tokens[PAGE:]), tokens[PAGE:])
    assert pool.find([*tokens[:PAGE], 99]) == pages[:1]
    assert pool.find([99, *tokens]) == []
    pool.give_back(pages[:1])
    pool.give_back(pages)
    assert pool.find(tokens) == pages and pool.free == 2
    pool.give_back(pages)
    assert [pool.take() for _ in range(5)][4] is None
    assert pool.find(tokens) == []


def test_what_can_never_run_is_refused() -> None:
    scheduler = Scheduler(PagePool(2), Limits(50, 3, CONTEXT))
    with pytest.raises(InputError):
        scheduler.add([], 1)
    with pytest.raises(InputError):
        scheduler.add([1] * CONTEXT, 1)
    with pytest.raises(ResourceError):
        scheduler.add([1] * (2 * PAGE), 1)

"""Guessed tokens: the same results bit for bit, whatever is guessed and in whatever company."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from whet.errors import ModelError, OptionError, ResourceError
from whet.llm import LLM, SamplingParams
from whet.llm.beam import beam_search
from whet.llm.engine.engine import Engine
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import Span
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.engine.speculate import LONGEST_PAUSE, DraftModel, PromptLookup, Speculation, Wanted
from whet.llm.prompts import PromptReader
from whet.options import Options
from whet.tests.tiny_models import CONTEXT, VOCABULARY, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, options=Options(threads=2), cache_bytes=40 << 20)


class Oracle:
    """Guesses from the answers that are known, some of them spoiled."""

    def __init__(self, answers: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
        self.answers, self.rng = answers, rng

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return what comes, with now and then a wrong token."""
        found = {}
        for number, want in wanted.items():
            whole, at = self.answers[number], len(want.tokens)
            tokens = np.array(whole[at : at + int(self.rng.integers(0, want.most + 1))], int)
            wrong = self.rng.random(len(tokens)) < 0.2
            tokens[wrong] = self.rng.integers(0, VOCABULARY, int(wrong.sum()))
            found[number] = tokens.tolist()
        return found

    def forget(self, number: int) -> None:
        """Nothing is kept."""


Work = list[tuple[list[int], SamplingParams]]


def requests(rng: np.random.Generator, count: int) -> Work:
    """Return random prompts, some with a prefix in common, and how they are sampled."""
    common = rng.integers(0, VOCABULARY, 70).tolist()
    found: Work = []
    for k in range(count):
        own = rng.integers(0, VOCABULARY, int(rng.integers(1, 60))).tolist()
        params = SamplingParams(
            max_tokens=int(rng.integers(1, 50)),
            temperature=float(rng.choice([0.0, 0.7, 1.5])),
            top_p=float(rng.choice([1.0, 0.9])),
            frequency_penalty=float(rng.choice([0.0, 0.5])),
            seed=k,
        )
        found.append((common * int(rng.integers(0, 2)) + own, params))
    return found


def run(engine: Engine, work: Work, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Run requests that arrive at random times; return their tokens."""
    numbers: list[int] = []
    while engine.busy or len(numbers) < len(work):
        while len(numbers) < len(work) and (rng is None or rng.random() < 0.3 or not engine.busy):
            prompt, params = work[len(numbers)]
            numbers.append(engine.add(prompt, params, priority=len(numbers) % 2))
        engine.step()
    assert engine.scheduler.pool.free == engine.scheduler.pool.count, "pages were lost"
    return [engine.requests[n].output for n in numbers]


def engine_of(llm: LLM, pages: int, limits: Limits) -> Engine:
    llm.program.clear()
    return Engine(llm.program, Scheduler(PagePool(pages), limits))


@pytest.mark.parametrize("seed", range(5))
def test_tokens_are_the_same_bits_in_any_company(llm: LLM, seed: int) -> None:
    """Alone, batched, in chunks, preempted, from the prefix cache, guessed: one result."""
    rng = np.random.default_rng(seed)
    work = requests(rng, 7)
    alone = [run(engine_of(llm, 8, Limits(512, 1, CONTEXT)), [one])[0] for one in work]
    answers = [[*prompt, *tokens] for (prompt, _), tokens in zip(work, alone, strict=True)]
    for pages, sizes in ((60, (512, 8)), (9, (40, 5)), (7, (9, 3))):
        engine = engine_of(llm, pages, Limits(*sizes, CONTEXT))
        engine.speculate(Speculation(Oracle(answers, rng), most=12))
        assert run(engine, work, rng) == alone
        assert engine.speculation is not None and engine.speculation.accepted > 0
    lookup = engine_of(llm, 20, Limits(64, 4, CONTEXT))
    lookup.speculate(Speculation(PromptLookup()))
    assert run(lookup, work, rng) == alone


def test_a_draft_model(llm: LLM, folder: Path) -> None:
    """A draft model that is the model itself is always right, and gives its pages back."""
    work = [(p, SamplingParams(max_tokens=60)) for p, _ in requests(np.random.default_rng(9), 4)]
    plain = engine_of(llm, 40, Limits(512, 4, CONTEXT))
    alone = run(plain, work)
    small = LLM(folder, options=Options(threads=2), cache_bytes=4 << 20)
    drafter = DraftModel(small.program, 40, CONTEXT, step_tokens=50)
    engine = engine_of(llm, 40, Limits(512, 4, CONTEXT))
    speculation = Speculation(drafter, most=6)
    engine.speculate(speculation)
    assert run(engine, work) == alone
    assert speculation.accepted > 0.95 * speculation.guessed  # all but those behind an end
    assert engine.steps < plain.steps / 3 and drafter.free == 40
    short = DraftModel(small.program, 1, CONTEXT)
    engine = engine_of(llm, 40, Limits(512, 4, CONTEXT))
    engine.speculate(Speculation(short))
    assert run(engine, work) == alone  # without room, nothing is guessed


def test_switching_it_on(llm: LLM, tmp_path: Path) -> None:
    prompt = [5, 6, 7, 8] * 10
    plain = llm.generate(prompt, SamplingParams(max_tokens=40))[0].tokens
    llm.speculate()
    try:
        assert llm.generate(prompt, SamplingParams(max_tokens=40))[0].tokens == plain
        number = llm.engine.add(prompt, SamplingParams(max_tokens=2))
        with pytest.raises(ResourceError, match="wait or run"):
            llm.speculate()
        llm.engine.cancel(number)
    finally:
        llm.engine.speculate(None)
    for wrong in (lambda: Speculation(PromptLookup(), 0), lambda: PromptLookup(1, 2)):
        with pytest.raises(OptionError):
            wrong()
    with pytest.raises(ModelError):
        llm.speculate(tmp_path / "none")


def test_prompt_lookup_finds_what_followed() -> None:
    lookup = PromptLookup(3, 2)
    text = [1, 2, 3, 4, 5, 9, 2, 3]
    assert lookup.guess({7: Wanted(text, 3)}) == {7: [4, 5, 9]}
    assert lookup.guess({7: Wanted([*text, 4], 2)}) == {7: [5, 9]}
    assert lookup.guess({8: Wanted([1, 2, 3], 2)}) == {}
    lookup.forget(7)
    assert lookup.guess({7: Wanted([3, 4, 8, 3, 4], 9)}) == {7: [8, 3, 4]}


class Chain:
    """A model whose next token depends on the last one alone."""

    def __init__(self, seed: int, tokens: int = 5) -> None:
        values = np.random.default_rng(seed).standard_normal((tokens, tokens))
        self.logits = 2 * values.astype(np.float32)

    def run(self, spans: Sequence[Span]) -> np.ndarray:
        """Return a row for each token of which the logits are wanted."""
        return self.logits[[t for s in spans for t in s.tokens[len(s.tokens) - s.logits :]]]


class Likeliest:
    """Guesses what the chain finds likeliest."""

    def __init__(self, chain: Chain) -> None:
        self.after = chain.logits.argmax(-1).tolist()

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return two tokens."""
        found = {}
        for number, want in wanted.items():
            first = self.after[want.tokens[-1]]
            found[number] = [first, self.after[first]][: want.most]
        return found

    def forget(self, number: int) -> None:
        """Nothing is kept."""


def test_guesses_keep_the_distribution() -> None:
    """Pairs of drawn tokens have the frequencies that the chain gives, guessed or not."""
    chain, count = Chain(3), 1500
    engine = Engine(chain, Scheduler(PagePool(64), Limits(512, 60, 32)))
    engine.speculate(Speculation(Likeliest(chain), 3))
    params = SamplingParams(max_tokens=4, temperature=1.0, seed=5)
    numbers = [engine.add([0], params, index=k) for k in range(count)]
    while engine.busy:
        engine.step()
    assert engine.speculation is not None and engine.speculation.accepted > count / 10
    seen = Counter(tuple(engine.requests[n].output[1:3]) for n in numbers)
    step = np.exp(chain.logits.astype(np.float64))
    step /= step.sum(-1, keepdims=True)
    first = step[0] @ step
    wanted = count * first[:, None] * step
    observed = np.array([[seen[a, b] for b in range(5)] for a in range(5)])
    chi = ((observed - wanted) ** 2 / wanted).sum()
    assert chi < 24 + 6 * np.sqrt(48)  # 24 degrees of freedom: six standard deviations


class Toy:
    """What beam search needs of a model."""

    tokenizer, context = None, 32

    def __init__(self, chain: Chain) -> None:
        self.engine = Engine(chain, Scheduler(PagePool(64), Limits(512, 60, 32)))
        self.prompts = PromptReader(None, 5, None)

    generate = LLM.generate
    _completed = LLM._completed

    def encode(self, prompt: list[int]) -> list[int]:
        """Return the tokens of a prompt."""
        return list(prompt)


def test_beam_search_finds_the_best() -> None:
    """With as many beams as there are tokens on any path, all completions are compared."""
    for seed in range(4):
        chain = Chain(seed)
        logs = chain.logits - np.log(np.exp(chain.logits).sum(-1, keepdims=True))
        found = beam_search(Toy(chain), [2], width=25, max_tokens=3)  # type: ignore[arg-type]
        scores = {
            path: logs[2, path[0]] + logs[path[0], path[1]] + logs[path[1], path[2]]
            for path in itertools.product(range(5), repeat=3)
        }
        best = sorted(scores, key=lambda p: -scores[p])[:25]
        assert [b.tokens for b in found[:5]] == best[:5]
        assert abs(found[0].logprob - scores[best[0]]) < 1e-5
    with pytest.raises(OptionError, match="width"):
        beam_search(Toy(chain), [2], width=40)  # type: ignore[arg-type]


def test_the_best_of_several(llm: LLM) -> None:
    prompt = [5, 9, 2]
    every = SamplingParams(n=6, temperature=1.3, seed=2, max_tokens=8, logprobs=0)
    all_of_them = llm.generate(prompt, every)
    some = SamplingParams(n=2, best_of=6, temperature=1.3, seed=2, max_tokens=8)
    best = llm.generate(prompt, some)
    ordered = sorted(all_of_them, key=lambda c: -c.mean_logprob)
    assert [c.tokens for c in best] == [c.tokens for c in ordered[:2]]
    assert best[0].logprobs is None
    biased = SamplingParams(max_tokens=4, logit_bias={77: 1000.0})
    assert llm.generate(prompt, biased)[0].tokens == (77,) * 4
    with pytest.raises(OptionError, match="best_of"):
        SamplingParams(n=3, best_of=2)


class Sevens:
    """Guesses sevens."""

    def guess(self, wanted: Mapping[int, Wanted]) -> dict[int, list[int]]:
        """Return as many as are wanted."""
        return {number: [7] * w.most for number, w in wanted.items()}

    def forget(self, number: int) -> None:
        """Drop nothing."""


def test_useless_guesses_become_rare_and_useful_ones_frequent_again() -> None:
    speculation = Speculation(Sevens())
    wanted = {0: Wanted([1, 2], 50)}

    def guesses(steps: int, *, right: bool) -> list[int]:
        sizes = []
        for _ in range(steps):
            found = len(speculation.guess(wanted).get(0, []))
            sizes.append(found)
            if found:
                speculation.learn(0, found, found if right else 0)
        return sizes

    wrong = guesses(100, right=False)
    assert wrong[:3] == [4, 1, 1] and 8 < sum(map(bool, wrong)) < 20
    assert max(wrong[3:]) == 1 and not any(wrong[k] and wrong[k + 1] for k in range(3, 98))
    again = guesses(LONGEST_PAUSE + 4, right=True)
    assert again[-3:] == [4, 8, 8] or again[-3:] == [8, 8, 8]

"""The engine: the same tokens alone, together, in chunks, preempted and from the prefix cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, OptionError, ResourceError
from whet.llm import LLM, SamplingParams
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.engine.engine import Engine
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import Span
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.llm import page_bytes
from whet.llm.source import Cache, Source
from whet.options import Options
from whet.tests.tiny_models import CONTEXT, VOCABULARY, reference_logits, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, options=Options(threads=2), cache_bytes=40 << 20)


def prompts(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, int(rng.integers(1, 80))).tolist() for _ in range(count)]


def engine_of(llm: LLM, pages: int, limits: Limits) -> Engine:
    """Return an engine of its own on the same compiled step, with a cache that holds nothing."""
    llm.program.clear()
    return Engine(llm.program, Scheduler(PagePool(pages), limits))


def finished(engine: Engine, given: list[list[int]], params: SamplingParams) -> list[list[int]]:
    numbers = [engine.add(p, params, index=i) for i, p in enumerate(given)]
    while engine.busy:
        engine.step()
    assert engine.scheduler.pool.free == engine.scheduler.pool.count
    return [engine.requests[n].output for n in numbers]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_do_not_depend_on_company(llm: LLM, temperature: float) -> None:
    check_in_any_company(llm, temperature)


@pytest.mark.parametrize("cache", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
def test_nor_with_few_bits(folder: Path, cache: Cache) -> None:
    """Weights in blocks, and keys and values of 16 and 8 bits."""
    source = Source(folder, weights="int4", cache=cache)
    check_in_any_company(LLM(source, options=Options(threads=2), cache_bytes=40 << 20), 1.0)


def check_in_any_company(llm: LLM, temperature: float) -> None:
    """Compare tokens of requests alone with those together, cached, in chunks and preempted."""
    given = prompts(6, 1)
    params = SamplingParams(max_tokens=30, temperature=temperature, seed=4, top_p=0.95)
    alone: list[list[int]] = []
    for index, prompt in enumerate(given):
        engine = engine_of(llm, 40, Limits(512, 4, CONTEXT))
        number = engine.add(prompt, params, index=index)
        while engine.busy:
            engine.step()
        alone.append(engine.requests[number].output)
    together = engine_of(llm, 40, Limits(512, 8, CONTEXT))
    assert finished(together, given, params) == alone
    assert finished(together, given, params) == alone  # the prefixes are in the cache now
    assert any(r.cached for r in together.requests.values())
    chunked = engine_of(llm, 40, Limits(7, 8, CONTEXT))
    assert finished(chunked, given, params) == alone
    short = engine_of(llm, 5, Limits(64, 8, CONTEXT))
    assert finished(short, given, params) == alone
    assert short.scheduler.preemptions


def test_greedy_tokens_are_those_of_transformers(llm: LLM, folder: Path) -> None:
    """Every one of 200 tokens is the reference's likeliest after those before it."""
    pytest.importorskip("torch", reason="references are models of transformers")
    transformers = pytest.importorskip("transformers", reason="they are references")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    prompt = prompts(1, 2)[0][:50]
    ours = llm.generate([prompt], SamplingParams(max_tokens=200, ignore_eos=True))[0].tokens
    logits = reference_logits(model, np.array([*prompt, *ours]))
    assert len(ours) == 200
    assert list(ours) == logits.argmax(-1)[len(prompt) - 1 : -1].tolist()


def test_requests_end(llm: LLM) -> None:
    prompt = prompts(1, 3)[0]
    plain = llm.generate(prompt, SamplingParams(max_tokens=12))[0]
    assert plain.reason == "length" and len(plain.tokens) == 12
    assert plain.prompt_tokens == len(prompt) and plain.logprobs is None
    stop = SamplingParams(max_tokens=12, stop_tokens=(plain.tokens[3],), logprobs=2)
    ended = llm.generate(prompt, stop)[0]
    assert ended.reason == "stop" and ended.tokens[-1] == plain.tokens[3]
    assert ended.logprobs is not None
    assert all(t in line for t, line in zip(ended.tokens, ended.logprobs, strict=True))
    full = llm.generate([3] * (CONTEXT - 3), SamplingParams(max_tokens=9))
    assert len(full[0].tokens) <= 3
    several = llm.generate(prompt, SamplingParams(n=3, temperature=1.5, seed=1, max_tokens=20))
    assert len({c.tokens for c in several}) > 1


def test_urgent_requests_come_first_and_cancelled_ones_leave(llm: LLM) -> None:
    engine = engine_of(llm, 40, Limits(512, 1, CONTEXT))
    params = SamplingParams(max_tokens=3)
    slow = engine.add([1, 2, 3], params, priority=1)
    quick = engine.add([4, 5, 6], params, priority=0)
    assert engine.step() == [quick]
    engine.cancel(quick)
    while engine.busy:
        engine.step()
    assert engine.requests[quick].reason == "cancelled"
    assert len(engine.requests[slow].output) == 3
    assert engine.scheduler.pool.free == 40


def test_logits_that_are_no_numbers_end_one_request(llm: LLM) -> None:
    class Broken:
        def run(self, spans: Any) -> Any:
            logits = llm.program.run(spans)
            logits[0] = np.nan
            return logits

    engine = Engine(Broken(), Scheduler(PagePool(40), Limits(512, 4, CONTEXT)))
    first, second = (engine.add(p, SamplingParams(max_tokens=1)) for p in prompts(2, 5))
    engine.step()
    assert engine.requests[first].reason == "error"
    assert "no numbers" in str(engine.requests[first].fault)
    assert engine.requests[second].reason == "length"
    assert engine.scheduler.pool.free == 40


def test_bad_requests(llm: LLM) -> None:
    for prompt, text in (
        ([], "no tokens"),
        ([VOCABULARY], "token 131"),
        ([1] * CONTEXT, "context"),
    ):
        with pytest.raises(InputError, match=text):
            llm.generate([prompt], SamplingParams(max_tokens=1))
    with pytest.raises(InputError, match="no tokenizer"):
        llm.generate("text")
    with pytest.raises(ResourceError, match="a cache of 32 has no room for 168 tokens"):
        engine_of(llm, 1, Limits(64, 4, CONTEXT)).add([1] * 40, SamplingParams())
    for wrong in ({"top_p": 0.0}, {"temperature": -1.0}, {"n": 0}, {"stop": ("",)}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            SamplingParams(**wrong)
    assert page_bytes(llm.architecture) == 4 * 2 * 2 * 32 * (16 + 16)


def test_vectors_of_texts(llm: LLM, folder: Path) -> None:
    """The states times the head are the logits that the engine sees."""
    given = [*prompts(5, 8), [7] * (CONTEXT - 1)]
    vectors = llm.embed(given)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    head = TensorFolder(folder).tensor("lm_head.weight")
    for prompt, vector in zip(given, vectors, strict=True):
        llm.program.clear()
        (logits,) = llm.program.run([Span(prompt, 0, list(range(8)), 1)])
        ours = head @ vector
        assert np.allclose(ours / np.linalg.norm(ours), logits / np.linalg.norm(logits), atol=1e-6)
        assert np.array_equal(llm.embed([prompt])[0], vector)
    with pytest.raises(InputError, match="context"):
        llm.embed([[1] * CONTEXT])

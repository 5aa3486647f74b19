"""Streams of the asynchronous engine, and ``whet llm``, with a model that counts on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.cli.main import run_command
from whet.errors import InputError, ModelError, ResourceError
from whet.llm import LLM
from whet.llm.engine.async_engine import AsyncEngine
from whet.llm.engine.engine import Engine, held_back
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import Span
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.prompts import PromptReader
from whet.tests.documents import conform
from whet.tests.tiny_models import write_checkpoint


class Counting:
    """A model whose likeliest token is one more than the last; ``fail`` makes its steps fail."""

    fail = False

    def run(self, spans: Sequence[Span]) -> np.ndarray:
        """Return the logits of 100 tokens."""
        if self.fail:
            raise RuntimeError("broken step")
        wanted = [span.tokens[-1] + 1 for span in spans if span.logits]
        return np.eye(101, 100, dtype=np.float32)[np.minimum(wanted, 100)]


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(ord("a") + t) for t in tokens)


def engine_of(program: Any) -> Engine:
    return Engine(program, Scheduler(PagePool(8), Limits(64, 4, 128)), letters)


async def gathered(engine: AsyncEngine, prompt: list[int], params: SamplingParams) -> Any:
    deltas = [delta async for delta in engine.generate(prompt, params)]
    tokens = [t for d in deltas for t in d.tokens]
    return tokens, "".join(d.text for d in deltas), deltas[-1].reason


def test_streams_bring_what_the_engine_gives() -> None:
    async def all_of_them() -> list[Any]:
        engine = AsyncEngine(engine_of(Counting()))
        plain = SamplingParams(max_tokens=5)
        stopping = SamplingParams(max_tokens=9, stop=("de", "zz"))
        work = [gathered(engine, [k], plain) for k in range(10)]
        found = await asyncio.gather(*work, gathered(engine, [0], stopping))
        engine.close()
        return list(found)

    *plain, stopped = asyncio.run(all_of_them())
    for k, (tokens, text, reason) in enumerate(plain):
        assert tokens == list(range(k + 1, k + 6)) and text == letters(tokens)
        assert reason == "length"
    assert stopped == ([1, 2, 3, 4], "bc", "stop")


def test_readers_that_leave_and_steps_that_fail() -> None:
    async def work() -> None:
        program = Counting()
        inner = engine_of(program)
        engine = AsyncEngine(inner, most_requests=2)
        long = SamplingParams(max_tokens=90)
        stream = engine.generate([0], long)
        await anext(stream)
        await stream.aclose()
        with pytest.raises(InputError):
            await anext(engine.generate([], long))
        for _ in range(500):
            if inner.scheduler.pool.free == 8:
                break
            await asyncio.sleep(0.01)
        assert inner.scheduler.pool.free == 8 and not inner.requests
        program.fail = True
        with pytest.raises(RuntimeError, match="broken step"):
            await anext(engine.generate([0], long))
        program.fail = False
        assert (await gathered(engine, [5], SamplingParams(max_tokens=2)))[0] == [6, 7]
        first, second = engine.generate([0], long), engine.generate([1], long)
        await anext(first)
        await anext(second)
        with pytest.raises(ResourceError, match="2 requests"):
            await anext(engine.generate([2], long))
        await first.aclose()
        await second.aclose()
        engine.close()
        with pytest.raises(ResourceError, match="closed"):
            await anext(engine.generate([2], long))

    asyncio.run(work())


class Broken(Counting):
    """A model whose logits behind token 7 are no numbers."""

    def run(self, spans: Sequence[Span]) -> np.ndarray:
        """Return logits."""
        logits = super().run(spans)
        last = [span.tokens[-1] for span in spans if span.logits]
        logits[[k for k, token in enumerate(last) if token == 7]] = np.nan
        return logits


def test_logits_that_are_no_numbers_are_an_error_of_their_own_request() -> None:
    async def work() -> tuple[list[int], int]:
        inner = engine_of(Broken())
        engine = AsyncEngine(inner)
        params, seen = SamplingParams(max_tokens=9), list[int]()

        async def broken() -> None:
            async for delta in engine.generate([4], params):
                seen.extend(delta.tokens)

        others = asyncio.create_task(gathered(engine, [20], params))
        with pytest.raises(ModelError, match="behind 4 tokens are no numbers"):
            await broken()
        tokens, _, reason = await others
        assert tokens == list(range(21, 30)) and reason == "length"
        engine.close()
        return seen, inner.scheduler.pool.free

    seen, free = asyncio.run(work())
    assert seen == [5, 6, 7] and free == 8


def test_what_is_held_back() -> None:
    assert held_back("abc", ("cd", "bcx")) == 2
    assert held_back("abc", ("x",)) == 0
    assert held_back("ab\ufffd", ()) == 1


class Peer:
    """Stands for another engine, as it is used: the program of a second model."""

    def __init__(self, program: Any, *_: object, **__: object) -> None:
        self.run = program.run

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_checkpoint(tmp_path, "llama"))
    run = ["llm", "run", folder, "--tokens", "--prompt", "1,2,3", "--max-tokens", "4"]
    assert run_command([*run, "--json", "--cache-mib", "1"]) == 0
    (found,) = conform(capsys.readouterr().out)["completions"]
    assert found["prompt_tokens"] == 3 and len(found["tokens"]) == 4
    bench = ["llm", "bench", folder, "--prompt-tokens", "9", "--new-tokens", "3", "--json"]
    assert run_command([*bench, "--batch", "2", "--prompt-tokens", "40"]) == 0
    rows = conform(capsys.readouterr().out)["runs"]
    assert [(row["batch"], row["prompt_tokens"]) for row in rows] == [(2, 9), (2, 40)]
    assert all(row["decode_rate"] > 0 for row in rows)
    assert run_command([*bench, "--behind", "8"]) == 2
    monkeypatch.setattr("whet.llm.measure.llama_cpp.LlamaCpp", partial(Peer, LLM(folder).program))
    monkeypatch.setattr("whet.llm.measure.against.streamed_bytes", lambda _: 1000)
    sizes = ["--prompt-tokens", "20", "--behind", "4", "--behind", "40", "--batch", "1"]
    assert run_command([*bench, *sizes, "--against", "llama.cpp"]) == 0
    found = conform(capsys.readouterr().out)
    duels = [(duel["what"], duel["tokens"], duel["context"]) for duel in found["duels"]]
    assert duels == [("prefill", 9, 0), ("prefill", 20, 0), ("decode", 1, 4), ("decode", 1, 40)]
    assert [run["prompt_tokens"] for run in found["engine"]] == [4, 40]
    quantized = ["llm", "quantize", folder, "-o", str(tmp_path / "few"), "--json"]
    assert run_command(quantized) == 0
    assert conform(capsys.readouterr().out)["matrices"] > 0
    assert run_command(["llm", "run", folder, "--prompt", "text"]) == 4
    assert "tokenizer" in capsys.readouterr().err
    assert run_command(["llm", "run", str(tmp_path / "no"), "--prompt", "x"]) == 3
    assert run_command(["llm", "run", folder, "--tokens", "--prompt", "x"]) == 2


class Spoken:
    """What streaming needs of a model."""

    tokenizer = None
    stream = LLM.stream

    def __init__(self) -> None:
        self.engine = engine_of(Counting())
        self.prompts = PromptReader(None, 100, None)


def test_pieces_of_one_completion() -> None:
    llm: Any = Spoken()
    pieces = list(llm.stream([0], SamplingParams(max_tokens=9, stop=("ef",))))
    assert pieces == ["b", "c", "d"]
    stream = llm.stream([0], SamplingParams(max_tokens=90))
    assert next(stream) == "b"
    stream.close()
    assert not llm.engine.requests and not llm.engine.busy

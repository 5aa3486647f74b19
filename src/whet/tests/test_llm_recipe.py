"""The recipe's switches switch, and ``whet llm ablate`` shows what each brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from whet.cli.main import run_command
from whet.errors import OptionError
from whet.llm import LLMInferenceOptimizer, SamplingParams
from whet.tests.documents import conform
from whet.tests.tiny_models import VOCABULARY, write_checkpoint

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("qwen3"))


def test_every_switch_switches(folder: Path) -> None:
    prompts = np.random.default_rng(3).integers(0, VOCABULARY, (6, 40)).tolist()
    params = SamplingParams(max_tokens=12)
    optimizer = LLMInferenceOptimizer(folder, threads=2)
    plain = optimizer.infer(prompts, params)
    first = optimizer.llm
    assert optimizer.llm is first, "nothing is compiled again without a reason"
    slow = (first.engine.steps, len(first.program.model.program.launches))
    assert slow[0] == 6 * 12  # one request at a time, one token a step
    optimizer.enable_fusion()
    assert optimizer.infer(prompts, params)[0].tokens == plain[0].tokens
    assert len(optimizer.llm.program.model.program.launches) < 0.8 * slow[1]
    assert optimizer.llm.program.memory.step < 0.6 * first.program.memory.step
    optimizer.enable_kv_cache().set_batch_size(6)
    assert optimizer.infer(prompts, params)[5].tokens == plain[5].tokens
    assert optimizer.llm.engine.steps < slow[0] / 4  # together
    assert optimizer.infer(prompts, params)[0].cached_tokens == 32
    floats = optimizer.llm
    optimizer.enable_quantization("int8")
    few = optimizer.infer(prompts, params)
    assert optimizer.llm.program.memory.weights < 0.5 * floats.program.memory.weights
    assert np.mean([a.tokens[0] == b.tokens[0] for a, b in zip(few, plain, strict=True)]) > 0.5
    with pytest.raises(OptionError, match="batch"):
        optimizer.set_batch_size(0)
    with pytest.raises(OptionError, match="precision"):
        optimizer.enable_quantization("x")  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path, layers=12)  # of which weights are more than scratch memory
    page = tmp_path / "ablation.html"
    arguments = ["llm", "ablate", str(folder), "--prompt-tokens", "40", "--new-tokens", "8"]
    assert run_command([*arguments, "--rounds", "1", "--html", str(page), "--json"]) == 0
    rows = conform(capsys.readouterr().out)["rows"]
    assert [r["name"] for r in rows] == [
        "nothing", "+ fusion", "+ KV cache", "+ batch 8", "+ int8",
    ]  # fmt: skip
    assert all(r["latency_ms"] > 0 for r in rows)
    assert all(r["same_tokens"] == 1 for r in rows[:4])
    assert rows[1]["memory_bytes"] < rows[0]["memory_bytes"]
    assert rows[4]["memory_bytes"] < rows[3]["memory_bytes"]
    assert 'class="bars"' in page.read_text() and "KV cache" in page.read_text()
    assert run_command([*arguments, "--html", str(tmp_path / "no" / "x.html")]) != 0

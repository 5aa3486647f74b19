"""Encoder–decoders against ``transformers`` in float64, and sound as Whisper hears it."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.cli.main import run_command
from whet.errors import InputError, ModelError, UnsupportedError
from whet.llm.engine.sampling import SamplingParams
from whet.llm.seq2seq.lines import Lines
from whet.llm.seq2seq.mel import log_mel
from whet.llm.seq2seq.model import Seq2Seq
from whet.options import Options
from whet.tests.documents import conform
from whet.tests.golden_models import DATA, Golden, write_golden

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "seq2seq_goldens.json").read_text())[name]
    return found


def arrays() -> dict[str, np.ndarray]:
    with np.load(DATA / "seq2seq_goldens.npz") as found:
        return dict(found)


def checkpoint(name: str, folder: Path) -> Path:
    known, none = facts(name), np.zeros(0)
    return write_golden(folder, Golden(known["config"], known["shapes"], known["seed"], none, none))


GREEDY = SamplingParams(max_tokens=30, ignore_eos=True)


@pytest.mark.parametrize("name", ["marian", "t5", "t5gated"])
def test_texts(name: str, tmp_path: Path) -> None:
    model = Seq2Seq(checkpoint(name, tmp_path), options=Options(threads=2))
    sources, wanted = facts(name)["sources"], arrays()[f"{name}.tokens"].tolist()
    together = model.generate(sources, GREEDY)
    assert [list(t.tokens) for t in together] == wanted
    assert [t.reason for t in together] == ["length"] * 3
    alone = model.generate(sources[:1], GREEDY)
    assert alone[0].tokens == together[0].tokens
    joined(model, sources, [target.tokens for target in together])
    model.ends = frozenset()
    greedy, *_ = model.beams(sources[0], width=1, max_tokens=30)
    assert list(greedy.tokens) == wanted[0]
    wide = model.beams(sources[0], width=3, max_tokens=30)
    assert len(wide) == 3 and wide[0].logprob >= wide[1].logprob >= wide[2].logprob
    model.ends = frozenset([wanted[0][3]])
    ended = model.generate(sources, SamplingParams(max_tokens=30))[0]
    place = wanted[0].index(wanted[0][3]) + 1
    assert list(ended.tokens) == wanted[0][:place] and ended.reason == "stop"
    for source in ([], [999]):
        with pytest.raises(InputError):
            model.generate([source])
    with pytest.raises(InputError, match="sound"):
        model.transcribe(np.zeros(10))
    assert model.generate([]) == []


def joined(model: Seq2Seq, sources: list[list[int]], wanted: list[tuple[int, ...]]) -> None:
    """Let sources join while others run and one leaves: the logits keep every bit."""
    engine, seen = model.engine, dict[int, list[bytes]]()

    def noted(lines: Lines, tokens: Sequence[int]) -> np.ndarray:
        logits = step(lines, tokens)
        for number, row in zip(lines.numbers, logits, strict=True):
            seen.setdefault(number, []).append(row.tobytes())
        return logits

    step = engine._coder.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._coder, "step", noted)
        first = engine.add(model.encode(sources[0]), GREEDY)
        for _ in range(35):
            engine.step()  # a place more than ``ROOM``, if the others were not there
        alone = seen.pop(first)
        assert tuple(engine.requests[first].output) == wanted[0]
        others = [engine.add(model.encode(source), GREEDY) for source in sources[1:]]
        engine.step()
        engine.step()
        again = engine.add(model.encode(sources[0]), GREEDY)
        engine.step()
        engine.cancel(others[0])
        while engine.busy:
            engine.step()
    assert seen[again] == alone
    assert tuple(engine.requests[others[1]].output) == wanted[2]
    engine.requests.clear()


def test_sound(tmp_path: Path) -> None:
    known = arrays()
    found = log_mel(known["sound"], 16, 60)
    assert np.abs(found - known["features"]).max() < 1e-3
    model = Seq2Seq(checkpoint("whisper", tmp_path), options=Options(threads=2))
    target = model.transcribe(known["sound"], GREEDY)
    assert list(target.tokens) == known["whisper.tokens"][0].tolist()
    for sound in (np.zeros((2, 9)), np.full(9, np.nan), np.zeros(0)):
        with pytest.raises(InputError, match="sound"):
            model.transcribe(sound)
    with pytest.raises(InputError, match="sound"):
        model.generate([[1]])
    long = np.concatenate([known["sound"], np.zeros(400), known["sound"]])
    pieces = [source for _, source in model.heard(long)]
    assert len(pieces) > 1
    assert len(model.transcribe(long, GREEDY).tokens) == len(pieces) * len(target.tokens)
    with pytest.raises(InputError, match="no room"):
        model.transcribe(known["sound"], GREEDY, begin=[5] * 40)


def test_damaged_checkpoints_are_errors(tmp_path: Path) -> None:
    folder = checkpoint("marian", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, kind, text in (
        ({"d_model": 128}, ModelError, "has shape"),
        ({"model_type": "marion"}, UnsupportedError, "marian"),
        ({"decoder_layers": 3}, ModelError, r"layers\.2"),
        ({"decoder_start_token_id": None}, ModelError, "decoder_start"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(kind, match=text):
            Seq2Seq(folder)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="texts become tokens")
    folder = checkpoint("whisper", tmp_path)
    names = ["<|en|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
    words = {f"t{k}": k for k in range(131 - len(names))}
    words |= {name: 131 - len(names) + k for k, name in enumerate(names)}
    codec = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
    codec.save(str(folder / "tokenizer.json"))
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        samples = np.repeat(arrays()["sound"], 2)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    command = ["llm", "transcribe", str(folder), str(sound), "--max-tokens", "5"]
    assert run_command(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("t")
    assert run_command([*command, "--json"]) == 0
    assert conform(capsys.readouterr().out)["text"].strip() == said.strip()
    (tmp_path / "marian").mkdir()
    translator = checkpoint("marian", tmp_path / "marian")
    codec.save(str(translator / "tokenizer.json"))
    spoken = ["llm", "translate", str(translator), "--text", "t5 t6", "--max-tokens", "3", "--json"]
    assert run_command(spoken) == 0
    (text,) = conform(capsys.readouterr().out)["texts"]
    assert text.startswith("t")
    assert run_command([*command, "--language", "xx"]) == 4
    assert "<|xx|>" in capsys.readouterr().err
    sound.write_bytes(b"RIFF")
    assert run_command(command) == 4

"""Servers of encoder–decoders: speech written down, texts completed, with the official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.llm.engine.engine import Request
from whet.llm.engine.sampling import SamplingParams
from whet.llm.seq2seq.model import Seq2Seq
from whet.options import Options
from whet.tests.test_llm_seq2seq import arrays, checkpoint
from whet.tests.test_llm_seq2seq_engine import waves

pytest.importorskip("starlette", reason="it is the server's framework")
pytest.importorskip("prometheus_client", reason="it keeps the numbers")
pytest.importorskip("python_multipart", reason="it reads forms")
tokenizers = pytest.importorskip("tokenizers", reason="texts become tokens")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

GREEDY_5 = SamplingParams(max_tokens=5, ignore_eos=True)
NAMES = [
    "<|en|>",
    "<|de|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|notimestamps|>",
    "<|startofprev|>",
]


def with_tokenizer(folder: Path, names: list[str]) -> Path:
    """Give a checkpoint a tokenizer whose words are numbers; the last ones have names."""
    words = {f"t{k}": k for k in range(131 - len(names))}
    words |= {name: 131 - len(names) + k for k, name in enumerate(names)}
    codec = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
    codec.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    codec.save(str(folder / "tokenizer.json"))
    languages = {n: words[n] for n in names if n in ("<|en|>", "<|de|>")}
    facts = {"lang_to_id": languages, "suppress_tokens": [words[n] for n in names]}
    (folder / "generation_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Seq2Seq:
    folder = checkpoint("whisper", tmp_path_factory.mktemp("whisper"))
    return Seq2Seq(with_tokenizer(folder, NAMES), options=Options(threads=2))


@pytest.fixture(scope="module")
def client(whisper: Seq2Seq) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from whet.serve.front import Settings
    from whet.serve.seq2seq_app import seq2seq_application

    settings = Settings("whisper", key="k", most_requests=3, body_bytes=1 << 20)
    with TestClient(
        seq2seq_application(whisper, settings), headers={"Authorization": "Bearer k"}
    ) as found:
        yield found


def sent(client: Any, sound: bytes, path: str = "transcriptions", **fields: Any) -> Any:
    return client.post(f"/v1/audio/{path}", files={"file": ("a.wav", sound)}, data=fields)


def test_speech_is_written_down(client: Any, whisper: Seq2Seq) -> None:
    sound, _ = waves(2, 16_000)  # a second, of which the model hears 0.6 at once
    first = sent(client, sound, language="de")
    assert first.status_code == 200, first.text
    text = first.json()["text"]
    assert text and not any(name in text for name in NAMES)
    assert sent(client, sound, language="de", response_format="text").text == text + "\n"
    verbose = sent(client, sound, language="de", response_format="verbose_json").json()
    assert verbose["language"] == "de" and len(verbose["segments"]) > 1
    assert verbose["segments"][0]["start"] == 0 and verbose["duration"] == 1.0
    assert "".join(s["text"] for s in verbose["segments"]).strip() == text
    srt = sent(client, sound, language="de", response_format="srt").text
    assert srt.startswith("1\n00:00:00,000 --> 00:00:00,") and "\n2\n" in srt
    assert sent(client, sound, language="de", response_format="vtt").text.startswith("WEBVTT\n")
    stream = sent(client, sound, language="de", stream="true").text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in stream[:-2]]
    assert stream[-2] == "data: [DONE]" and events[-1]["text"] == text
    assert "".join(e["delta"] for e in events[:-1]).strip() == text
    found = sent(client, sound, response_format="verbose_json").json()["language"]
    assert found in ("en", "de")
    assert sent(client, sound, path="translations").status_code == 200
    before = sent(client, sound, language="de", prompt="t5 t6 t7")
    assert before.status_code == 200
    for _ in range(500):  # a request is dropped by the thread, a moment after its answer
        if not whisper.engine.requests:
            break
        time.sleep(0.01)
    assert not whisper.engine.requests and not whisper.engine.busy


def test_bad_sounds_and_forms_have_reasons(client: Any) -> None:
    sound, _ = waves(2, 16_000)
    for data, fields, status, text in (
        (b"", {}, 400, "sound"),
        (b"RIFFxxxx", {}, 400, "sound"),
        (sound, {"language": "xx"}, 400, "<|xx|>"),
        (sound, {"response_format": "doc"}, 400, "response_format"),
        (sound, {"temperature": "hot"}, 400, "temperature"),
        (sound, {"temperature": "-1"}, 400, "temperature"),
        (sound, {"speed": "2"}, 400, "speed"),
        (sound, {"response_format": "srt", "stream": "true"}, 400, "stream"),
        (sound * 50, {}, 413, "bytes"),
    ):
        answer = sent(client, data, **fields)
        assert answer.status_code == status, (fields, answer.text)
        assert text in answer.json()["error"]["message"], (fields, answer.text)
    path = "/v1/audio/transcriptions"
    assert client.post(path, json={"file": 3}).status_code == 400
    assert client.post(path, data={"language": "en"}).status_code == 400
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(path, content=b"--y", headers=form).status_code == 400
    form = {"Content-Type": "multipart/form-data"}
    assert client.post(path, content=b"--y", headers=form).status_code == 400
    assert client.post(path, headers={"Authorization": ""}).status_code == 401
    assert 'status="400"' in client.get("/metrics").text
    assert "whet_requests_running 0.0" in client.get("/metrics").text


def test_the_official_client(client: Any) -> None:
    openai = pytest.importorskip("openai", reason="it is the client that has to work")
    user = openai.OpenAI(base_url="http://testserver/v1", api_key="k", http_client=client)
    sound, _ = waves(2, 16_000)
    given = ("a.wav", sound)
    text = user.audio.transcriptions.create(file=given, model="w", language="de").text
    events = list(
        user.audio.transcriptions.create(file=given, model="w", language="de", stream=True)
    )
    assert text and events[-1].type == "transcript.text.done" and events[-1].text == text
    assert user.audio.translations.create(file=given, model="w").text


def test_texts(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from whet.serve.front import Settings
    from whet.serve.seq2seq_app import seq2seq_application

    folder = with_tokenizer(checkpoint("marian", tmp_path), [])
    model = Seq2Seq(folder, options=Options(threads=2))
    wanted = model.generate(["t5 t6", "t9"])
    with TestClient(seq2seq_application(model, Settings("marian"))) as client:
        body = {"prompt": ["t5 t6", "t9"], "temperature": 0, "max_tokens": 128, "logprobs": 1}
        found = client.post("/v1/completions", json=body).json()
        assert [c["text"] for c in found["choices"]] == [t.text for t in wanted]
        assert found["usage"]["prompt_tokens"] == 3
        lines = client.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n")
        pieces = [
            json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")
        ]
        assert "".join(p["text"] for p in pieces if p["index"] == 0) == wanted[0].text
        stopped = wanted[0].text.split()[2]
        ended = client.post("/v1/completions", json={**body, "prompt": "t5 t6", "stop": stopped})
        assert stopped not in ended.json()["choices"][0]["text"]
        for wrong in ({"prompt": ""}, {"prompt": "t1 " * 90}, {"prompt": [999]}):
            assert client.post("/v1/completions", json=wrong).status_code == 400
        assert client.post("/v1/chat/completions", json={"messages": []}).status_code == 404
    left = model.stream("t5 t6")
    next(left)
    del left  # a caller that stops reading
    assert not model.engine.requests
    assert "".join(model.stream("t5 t6")) == wanted[0].text


def test_logits_that_are_no_numbers_end_one_target(whisper: Seq2Seq) -> None:
    sound = arrays()["sound"]
    engine = whisper.engine
    with pytest.MonkeyPatch.context() as patch:
        step = engine._coder.step

        def spoiled(lines: Any, tokens: Any) -> np.ndarray:
            logits = step(lines, tokens)
            logits[[k for k, n in enumerate(lines.numbers) if n % 2]] = np.nan
            return logits

        patch.setattr(engine._coder, "step", spoiled)
        numbers = [engine.add(whisper.heard(sound)[0][1], GREEDY_5) for _ in range(4)]
        while engine.busy:
            engine.step()
    done: list[Request] = [engine.requests.pop(n) for n in numbers]
    assert {r.reason for n, r in zip(numbers, done, strict=True) if n % 2} == {"error"}
    assert {r.reason for n, r in zip(numbers, done, strict=True) if not n % 2} == {"length"}

"""The OpenAI-compatible server over real HTTP, with a model that counts on."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError
from whet.llm.engine.engine import Engine
from whet.llm.engine.pages import PagePool
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.engine.structured import Constraint
from whet.tests.test_llm_streaming import Counting, letters

uvicorn = pytest.importorskip("uvicorn", reason="it carries the server")
pytest.importorskip("starlette", reason="it is the server's framework")
pytest.importorskip("prometheus_client", reason="it keeps the numbers")

pytestmark = pytest.mark.filterwarnings("ignore")


class AsGiven:
    """Allows one text only."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.seen = tokens, 0

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self.seen == len(self.tokens)

    def allowed(self, count: int) -> np.ndarray:
        """Return which token comes next."""
        return np.asarray(np.arange(count) == self.tokens[self.seen])

    def take(self, token: int) -> None:
        """Note a token."""
        self.seen += 1

    def copy(self) -> AsGiven:
        """Return another."""
        return AsGiven(self.tokens)


class Letters:
    """A model whose tokens are letters; prompts are texts of them."""

    tokenizer, context = None, 128

    def __init__(self, program: Any) -> None:
        self.engine = Engine(program, Scheduler(PagePool(8), Limits(64, 4, 128)), letters)

    def encode(self, prompt: Any) -> list[int]:
        """Return a prompt's tokens."""
        tokens = [ord(c) - ord("a") for c in prompt] if isinstance(prompt, str) else list(prompt)
        if any(not 0 <= t < 100 for t in tokens):
            raise InputError("the prompt has unknown tokens")
        return tokens

    def token_text(self, token: int) -> str:
        """Return a token's letter."""
        return chr(ord("a") + token)

    def matcher(self, constraint: Constraint) -> AsGiven:
        """Return what allows the letters of the constraint's text alone, in order."""
        if not constraint.text:
            raise InputError("the json cannot be followed")
        return AsGiven(self.encode(constraint.text))

    def chat_prompt(
        self, messages: list[dict[str, Any]], tools: Any = (), switches: Any = None
    ) -> list[int]:
        """Return what was said last."""
        if not messages:
            raise InputError("the chat template failed: there are no messages")
        return self.encode(messages[-1]["content"])


class Slow(Counting):
    """A model that takes its time."""

    def run(self, spans: Any) -> np.ndarray:
        """Return logits after a while."""
        time.sleep(0.02)
        return super().run(spans)


class BrokenSometimes(Counting):
    """A model whose logits behind "m" are no numbers."""

    def run(self, spans: Any) -> np.ndarray:
        """Return logits."""
        last = [span.tokens[-1] for span in spans if span.logits]
        return np.where(np.array(last)[:, None] == 12, np.nan, super().run(spans))


def test_logits_that_are_no_numbers_are_a_server_error() -> None:
    server = Served(BrokenSometimes())
    body = {"prompt": "j", "max_tokens": 9, "temperature": 0}
    status, found, _ = server.ask("/v1/completions", body)
    assert status == 500 and "no numbers" in found["error"]["message"]
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    text = json.dumps({**body, "stream": True}).encode()
    link.request("POST", "/v1/completions", text, {"Authorization": "Bearer secret"})
    events = link.getresponse().read().decode().split("\n\n")
    assert "no numbers" in json.loads(events[-3][6:])["error"]["message"]
    assert json.loads(events[0][6:])["choices"][0]["text"] == "k"
    link.close()
    assert server.ask("/v1/completions", {**body, "prompt": "p"})[1]["choices"][0]["text"]
    assert server.idle()
    server.close()


class Served:
    """A server on a port of its own."""

    def __init__(self, program: Any) -> None:
        from whet.serve.app import application
        from whet.serve.front import Settings

        self.llm = Letters(program)
        settings = Settings("letters", key="secret", most_requests=6, body_bytes=5000)
        app = application(self.llm, settings)  # type: ignore[arg-type]
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    def ask(self, path: str, body: Any = None, key: str = "secret") -> tuple[int, Any, Any]:
        """Return status, decoded body and headers of an answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}"}
        link.request("GET" if body is None else "POST", path, text, headers)
        answer = link.getresponse()
        data = json.loads(answer.read() or b"null")
        link.close()
        return answer.status, data, answer.headers

    def idle(self) -> bool:
        """Wait until nothing runs; whether all pages came back."""
        for _ in range(1000):
            if not self.llm.engine.requests and self.llm.engine.scheduler.pool.free == 8:
                return True
            time.sleep(0.01)
        return False

    def close(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    found = Served(Slow())
    yield found
    found.close()


def test_the_official_client(served: Served) -> None:
    openai = pytest.importorskip("openai", reason="it is the client that has to work")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="secret")
    assert [m.id for m in client.models.list()] == ["letters"]
    assert client.models.retrieve("letters").created > 0
    with pytest.raises(openai.NotFoundError, match="letters"):
        client.models.retrieve("others")
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings is not answered"):
        client.embeddings.create(model="letters", input="a")
    plain = client.completions.create(model="letters", prompt=["a", "c"], max_tokens=3, seed=1,
                                      temperature=0)  # fmt: skip
    assert [c.text for c in plain.choices] == ["bcd", "def"]
    assert plain.usage.completion_tokens == 6 and plain.usage.prompt_tokens == 2
    messages = [{"role": "user", "content": "ab"}]
    chat = client.chat.completions.create(
        model="letters", messages=messages, max_tokens=9, stop="gh", temperature=0
    )
    assert chat.choices[0].message.content == "cdef" and chat.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(
        model="letters", messages=messages, max_tokens=4, stream=True, temperature=0
    )
    pieces = [piece.choices[0] for piece in stream]
    assert "".join(p.delta.content for p in pieces) == "cdef" and len(pieces) > 2
    assert pieces[-1].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="tool"):
        client.chat.completions.create(model="letters", messages=messages, tools=[{"x": 1}])
    assert served.idle()


def test_log_probabilities_and_formats(served: Served) -> None:
    openai = pytest.importorskip("openai", reason="it is the client that has to work")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="secret")
    messages = [{"role": "user", "content": "ab"}]
    plain = client.completions.create(
        model="letters", prompt="a", max_tokens=2, temperature=0, logprobs=2
    )
    found = plain.choices[0].logprobs
    assert found.tokens == ["b", "c"]
    likely = 1 - np.log(np.e + 99)
    assert np.allclose(found.token_logprobs, likely)
    assert [len(line) for line in found.top_logprobs] == [2, 2]
    chat = client.chat.completions.create(
        model="letters", messages=messages, max_tokens=2, temperature=0, logprobs=True,
        top_logprobs=3,
    )  # fmt: skip
    lines = chat.choices[0].logprobs.content
    assert [line.token for line in lines] == ["c", "d"] and len(lines[0].top_logprobs) == 3
    stream = client.chat.completions.create(
        model="letters", messages=messages, max_tokens=3, temperature=0, logprobs=True,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    *pieces, last = list(stream)
    assert sum(len(p.choices[0].logprobs.content) for p in pieces) == 3
    assert last.usage.completion_tokens == 3 and last.usage.prompt_tokens == 2
    best = {"prompt": "a", "n": 1, "best_of": 3, "max_tokens": 2, "temperature": 0}
    status, body, _ = served.ask("/v1/completions", best)
    assert status == 200 and [c["text"] for c in body["choices"]] == ["bc"]
    assert body["usage"]["completion_tokens"] == 6
    guided = client.chat.completions.create(
        model="letters", messages=messages, extra_body={"guided_regex": "xyxy"}
    )
    assert guided.choices[0].message.content == "xyxy"
    assert guided.choices[0].finish_reason == "stop"
    assert served.idle()


def test_streams_of_several_come_together(served: Served) -> None:
    openai = pytest.importorskip("openai", reason="it is the client that has to work")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="secret")
    messages = [{"role": "user", "content": "abcd" * 10}]
    for _ in range(2):  # the second time the prompt's first page is in the cache
        stream = client.chat.completions.create(
            model="letters", messages=messages, n=2, max_tokens=12, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"stop_token_ids": [12]},
        )  # fmt: skip
        *pieces, last = list(stream)
        texts = ["", ""]
        for piece in pieces:
            texts[piece.choices[0].index] += piece.choices[0].delta.content
            assert piece.id.startswith("chatcmpl-")
        assert texts == ["efghijkl"] * 2
    order = [piece.choices[0].index for piece in pieces]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)
    assert last.usage.completion_tokens == 18
    assert last.usage.prompt_tokens_details.cached_tokens == 2 * 32
    assert served.idle()


def test_beams(served: Served) -> None:
    """The likeliest whole completion counts on; the next best leave one letter out."""
    body = {"prompt": "a", "use_beam_search": True, "n": 2, "best_of": 3, "max_tokens": 2}
    status, found, _ = served.ask("/v1/completions", body)
    assert status == 200 and [c["finish_reason"] for c in found["choices"]] == ["length"] * 2
    assert found["usage"]["completion_tokens"] == 4 and found["usage"]["prompt_tokens"] == 1
    best, second = (c["text"] for c in found["choices"])
    assert best == "bc" and len(second) == 2 and second != best
    chat = {"messages": [{"role": "user", "content": "ab"}], "use_beam_search": True}
    found = served.ask("/v1/chat/completions", {**chat, "max_tokens": 3})[1]
    assert found["choices"][0]["message"]["content"] == "cde"
    for wrong, text in (
        ({"stream": True}, "stream"),
        ({"stop": "x"}, "stop"),
        ({"logprobs": 3}, "logprobs"),
    ):
        status, answer, _ = served.ask("/v1/completions", {**body, "best_of": None, **wrong})
        assert status == 400 and text in answer["error"]["message"]
    assert served.idle()


def test_looking_at_the_server(served: Served) -> None:
    body = {"prompt": "abc" * 20, "max_tokens": 3}
    served.ask("/v1/completions", body)
    usage = served.ask("/v1/completions", body)[1]["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 32}
    link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    link.request("GET", "/metrics", headers={"Authorization": "Bearer secret"})
    text = link.getresponse().read().decode()
    for line in ("whet_cache_pages 8.0", "whet_cache_pages_free 8.0", "whet_requests_running 0.0"):
        assert line in text
    assert 'whet_requests_total{path="/v1/completions",status="200"}' in text
    assert "whet_first_token_seconds_bucket" in text
    (cached,) = (
        line for line in text.splitlines() if line.startswith("whet_cached_prompt_tokens_t")
    )
    assert float(cached.split()[1]) >= 32
    link.request("GET", "/metrics")
    answer = link.getresponse()
    assert answer.read() and answer.status == 401
    link.request("GET", "/")
    answer = link.getresponse()
    assert b"<title>Whet chat" in answer.read() and answer.status == 200
    link.close()
    assert served.ask("/ready", key="")[:2] == (200, {"ready": True})


def test_bad_requests_have_reasons(served: Served) -> None:
    many = "/v1/completions"
    for body, text in (
        (b"{", "malformed"),
        (b"[" * 4000, "malformed"),
        (b"x" * 6000, "bytes"),
        ({"prompt": 3}, "malformed"),
        ({"prompt": ""}, "no tokens"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": "A"}, "unknown"),
        ({"prompt": "a" * 200}, "context"),
        ({"prompt": "a", "top_p": 7}, "top_p"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "logit_bias": {"b": 1}}, "logit_bias"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "json"),
        ({"prompt": "a", "response_format": {"type": "xml"}}, "response_format"),
        ({"prompt": "a", "response_format": {"type": "json_schema"}}, "schema"),
        ({"prompt": "a", "guided_regex": "A"}, "unknown"),
        ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 500}, "logprobs"),
        ({"prompt": "a", "n": 7}, "7 completions"),
        ({"prompt": "a", "tempereture": 1}, "'temperature'"),
        ({"prompt": "a", "min_tokens": 3}, "min_tokens"),
        ({"prompt": "a", "max_completion_tokens": 0}, "max_tokens is 0"),
        ({"prompt": "a", "guided_choice": []}, "guided_choice"),
        ({"prompt": "a", "guided_regex": "b", "guided_json": {}}, "several"),
        ({"prompt": "a" * 200, "stream": True}, "context"),
    ):
        status, found, _ = served.ask(many, body)
        assert status == (413 if text == "bytes" else 400), (body, found)
        assert text in found["error"]["message"], (body, found)
    assert served.ask("/v1/chat/completions", {"messages": []})[0] == 400
    status, found, _ = served.ask(many, {"prompt": "a", "model": "others"})
    assert status == 404 and "'letters'" in found["error"]["message"]
    assert served.ask(many, {"prompt": "a", "user": "me", "max_tokens": 1})[0] == 200
    assert served.ask("/v1/models", key="wrong")[0] == 401
    assert served.ask(many, {"prompt": "a"}, key="")[0] == 401
    assert served.ask("/health", key="")[0] == 200
    assert served.idle()


def test_too_many_requests_wait_elsewhere(served: Served) -> None:
    body = {"prompt": "a", "max_tokens": 40, "temperature": 0}
    found: list[tuple[int, Any, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(served.ask("/v1/completions", body)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {data["choices"][0]["text"] for status, data, _ in found if status == 200}
    assert texts == {letters(range(1, 41))}
    refused = [headers for status, _, headers in found if status == 429]
    assert refused and all(headers["Retry-After"] for headers in refused)
    assert {status for status, _, _ in found} == {200, 429}
    assert served.idle()


def test_callers_that_leave_are_forgotten(served: Served) -> None:
    for stream in (True, False):
        before = served.llm.engine.steps
        link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        body = {"prompt": "a", "max_tokens": 90, "stream": stream, "temperature": 0}
        headers = {"Authorization": "Bearer secret"}
        link.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
        time.sleep(0.1)
        link.close()
        assert served.idle() and served.llm.engine.steps - before < 90


def test_answers_end_before_the_server_does() -> None:
    server = Served(Slow())
    body = {"prompt": "a", "max_tokens": 40, "temperature": 0}
    found: list[tuple[int, Any, Any]] = []
    asking = threading.Thread(target=lambda: found.append(server.ask("/v1/completions", body)))
    asking.start()
    while not server.llm.engine.requests:
        time.sleep(0.01)
    server.close()
    asking.join()
    ((status, data, _),) = found
    assert status == 200 and data["choices"][0]["text"] == letters(range(1, 41))
    assert not server.thread.is_alive()

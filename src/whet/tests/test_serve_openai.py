"""The server under the client of the OpenAI API: formats hold, whatever a model says."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whet.llm import LLM
from whet.options import Options
from whet.tests.golden_models import weights, write_tensors

openai = pytest.importorskip("openai", reason="it is the client")
uvicorn = pytest.importorskip("uvicorn", reason="it carries the server")
tokenizers = pytest.importorskip("tokenizers", reason="formats are about texts")
pytest.importorskip("llguidance", reason="it follows grammars")
pytest.importorskip("prometheus_client", reason="the server counts with it")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
VOCABULARY = 272
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}[assistant]"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 10}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
HELLO = [{"role": "user", "content": "Hello"}]


def write_model(folder: Path) -> Path:
    """Write a Llama of random weights whose tokens are bytes, and one that ends a text."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    layer = {f"self_attn.{role}_proj": (32, 32) for role in "qkvo"}
    layer |= {"mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes: dict[str, tuple[int, ...]] = {f"model.layers.0.{n}.weight": s for n, s in layer.items()}
    shapes |= {f"model.layers.0.{n}.weight": (32,) for n in norms}
    shapes |= {"model.norm.weight": (32,), "lm_head.weight": (VOCABULARY, 32)}
    shapes |= {"model.embed_tokens.weight": (VOCABULARY, 32)}
    write_tensors(folder / "model.safetensors", weights(shapes, 3))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = {token: k for k, token in enumerate(["<end>", *letters])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=names, merges=[]))
    made.add_special_tokens(["<end>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    facts = {"eos_token": "<end>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a client of a server on a port of its own."""
    from whet.serve.app import application
    from whet.serve.front import Settings

    folder = write_model(tmp_path_factory.mktemp("bytes"))
    llm = LLM(folder, options=Options(threads=2), cache_bytes=1 << 24)
    with socket.create_server(("127.0.0.1", 0)) as place:
        app = application(llm, Settings("bytes", key="secret"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([place],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{place.getsockname()[1]}/v1"
        while not server.started:
            time.sleep(0.01)
        yield openai.OpenAI(base_url=url, api_key="secret", max_retries=0, timeout=120)
        server.should_exit = True
        thread.join(30)


def wild(seed: int, **more: Any) -> dict[str, Any]:
    """Return how to draw from anything."""
    return {"model": "bytes", "temperature": 1.5, "seed": seed, "max_tokens": 400, **more}


@pytest.mark.parametrize("seed", range(3))
def test_a_schema_is_kept(client: Any, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    said = client.chat.completions.create(messages=HELLO, response_format=form, **wild(seed))
    (choice,) = said.choices
    assert choice.finish_reason == "stop"
    found = json.loads(choice.message.content)
    assert set(found) == {"name", "age", "tags"} and 0 <= found["age"] <= 120
    assert len(found["name"]) <= 8 and set(found["tags"]) <= {"a", "b"} and len(found["tags"]) <= 3
    stream = client.chat.completions.create(
        messages=HELLO,
        response_format=form,
        stream=True,
        stream_options={"include_usage": True},
        **wild(seed),
    )
    pieces = list(stream)
    text = "".join(c.delta.content or "" for p in pieces for c in p.choices)
    assert text == choice.message.content
    assert pieces[-1].usage.completion_tokens == said.usage.completion_tokens


def test_a_class_is_filled_in(client: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    person = pydantic.create_model("Person", age=(int, ...), good=(bool, ...))
    said = client.chat.completions.parse(
        messages=HELLO, response_format=person, **wild(1, logit_bias={}, max_tokens=200)
    )
    if said.choices[0].finish_reason == "stop":
        assert isinstance(said.choices[0].message.parsed.good, bool)


def test_a_text_is_one_of_those_given(client: Any) -> None:
    choice = ["yes", 'no, "never"']
    more: dict[str, Any] = {"guided_choice": choice}
    found = {
        client.chat.completions.create(messages=HELLO, extra_body=more, **wild(seed))
        .choices[0]
        .message.content
        for seed in range(6)
    }
    assert found == set(choice)
    more = {"guided_json": SCHEMA}
    said = client.chat.completions.create(messages=HELLO, extra_body=more, **wild(1))
    assert set(json.loads(said.choices[0].message.content)) == {"name", "age", "tags"}


def test_json_mode(client: Any) -> None:
    end = client.completions.create(model="bytes", prompt="}", max_tokens=1, temperature=0)
    assert end.usage.prompt_tokens == 1
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    closing = {str(1 + letters.index("}")): 50}  # or a random model would go on for ever
    said = client.chat.completions.create(
        messages=HELLO, response_format={"type": "json_object"}, logit_bias=closing, **wild(2)
    )
    assert said.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(said.choices[0].message.content), dict)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_function_is_called(client: Any, choice: Any) -> None:
    closing = {} if isinstance(choice, dict) else {"tools": [WEATHER]}
    asked = {"tools": [WEATHER, CLOCK], **closing, "tool_choice": choice}
    said = client.chat.completions.create(messages=HELLO, **asked, **wild(4)).choices[0]
    assert said.finish_reason == "tool_calls"
    (call,) = said.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and arguments["days"] in (1, 2)
    pieces = client.chat.completions.create(messages=HELLO, stream=True, **asked, **wild(4))
    streamed = [c.delta.tool_calls for p in pieces for c in p.choices if c.delta.tool_calls]
    assert [json.loads(c.function.arguments) for calls in streamed for c in calls] == [arguments]
    answer = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    history = [*HELLO, said.message.model_dump(exclude_none=True), answer]
    again = client.chat.completions.create(messages=history, tools=[WEATHER], **wild(5))
    plain = client.chat.completions.create(messages=HELLO, tools=[WEATHER], **wild(5))
    longer = again.usage.prompt_tokens - plain.usage.prompt_tokens
    assert longer == len(f"[assistant]{arguments['city']}[tool]rain".encode())


def test_refusals_reach_the_caller(client: Any) -> None:
    for asked, text in (
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, "function"),
        ({"response_format": {"type": "xml"}}, "xml"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema"),
        ({"temperature": -1}, "temperature"),
        ({"n": 500}, "n is 500"),
    ):
        with pytest.raises(openai.BadRequestError, match=text):
            client.chat.completions.create(messages=HELLO, **wild(1) | asked)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(
            messages=[{"role": "user", "content": "x" * 3000}], **wild(1)
        )
    assert [m.id for m in client.models.list()] == ["bytes"]

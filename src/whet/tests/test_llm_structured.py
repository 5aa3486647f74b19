"""Texts of a given form, chat templates that go wrong, and calls of functions."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, UnsupportedError
from whet.llm.checkpoints.template import render_chat
from whet.llm.engine.engine import Engine
from whet.llm.engine.pages import PagePool
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.engine.structured import Constraint, Grammars
from whet.serve.protocol import Chat
from whet.serve.tools import read_calls, tools_of

pytest.importorskip("llguidance", reason="it follows grammars")
tokenizers = pytest.importorskip("tokenizers", reason="grammars need a tokenizer")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def codec() -> Any:
    """Return a tokenizer of bytes, some pairs of letters, and a token that ends texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "r"), ("tr", "u"), ("tru", "e"), ('"', ":"), ("a", "b")]
    vocabulary = {t: k for k, t in enumerate(["<end>", *letters, *("".join(m) for m in merges)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.add_special_tokens(["<end>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


class Noise:
    """A model that says anything."""

    def __init__(self, tokens: int) -> None:
        self.random, self.tokens = np.random.default_rng(5), tokens

    def run(self, spans: Any) -> np.ndarray:
        """Return random logits."""
        count = sum(s.logits for s in spans)
        return self.random.standard_normal((count, self.tokens)).astype(np.float32)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
        "good": {"type": "boolean"},
    },
    "required": ["name", "age", "kind", "good"],
    "additionalProperties": False,
}


def test_what_a_random_model_writes_matches(codec: Any) -> None:
    count = codec.get_vocab_size()
    grammars = Grammars(codec, frozenset([0]), count + 3)  # a padded vocabulary
    engine = Engine(Noise(count + 3), Scheduler(PagePool(64), Limits(64, 8, 400)), codec.decode)
    wanted = [
        Constraint("json_schema", json.dumps(SCHEMA)),
        Constraint("regex", "(ab|cd){2,4}x"),
        Constraint("grammar", 'start: "a" start "b" | "c"'),
    ]
    numbers = []
    for k in range(9):
        matcher = grammars.matcher(wanted[k % 3]).copy()
        params = SamplingParams(max_tokens=300, temperature=1.0, seed=k)
        number = engine.add([5], params, ends=frozenset([0]), index=k, matcher=matcher)
        numbers.append(number)
    while engine.busy:
        engine.step()
    for k, number in enumerate(numbers):
        request = engine.requests[number]
        assert request.reason == "stop", (request.reason, request.text)
        if k % 3 == 0:
            found = json.loads(request.text)
            assert set(found) == set(SCHEMA["properties"])  # type: ignore[call-overload]
            assert 1 <= found["age"] <= 120 and found["kind"] in ("cat", "dog")
        elif k % 3 == 1:
            assert re.fullmatch("(ab|cd){2,4}x", request.text)
        else:
            depth = request.text.index("c")
            assert request.text == "a" * depth + "c" + "b" * depth


class Blank:
    """A model that likes nothing but spaces, and then the smallest token."""

    def __init__(self, space: int, tokens: int) -> None:
        self.space, self.tokens = space, tokens

    def run(self, spans: Any) -> np.ndarray:
        """Return logits."""
        logits = np.tile(-np.arange(self.tokens, dtype=np.float32), (len(spans), 1))
        logits[:, self.space] = 9
        return logits


def test_spaces_come_to_an_end(codec: Any) -> None:
    count, space = codec.get_vocab_size(), codec.encode(" ").ids[0]
    schema = {"properties": {"n": {"type": "boolean"}}, "additionalProperties": False}
    text = json.dumps({**schema, "required": ["n"], "type": "object"})
    matcher = Grammars(codec, frozenset([0]), count).matcher(Constraint("json_schema", text))
    engine = Engine(Blank(space, count), Scheduler(PagePool(9), Limits(64, 8, 280)), codec.decode)
    params = SamplingParams(max_tokens=200)
    number = engine.add([5], params, ends=frozenset([0]), matcher=matcher)
    while engine.busy:
        engine.step()
    found = engine.requests[number]
    assert found.reason == "stop" and 20 <= found.text.count(" ") <= 120
    assert isinstance(json.loads(found.text), dict)


def test_bad_formats_are_errors(codec: Any) -> None:
    grammars = Grammars(codec, frozenset([0]), codec.get_vocab_size())
    for kind, text in (
        ("regex", "(ab"),
        ("grammar", "start: nowhere"),
        ("json_schema", "{"),
        ("json_schema", "[]"),
        ("json_schema", json.dumps({"type": "thing"})),
        ("regex", "a" * 300_000),
    ):
        with pytest.raises(InputError, match="cannot be followed"):
            grammars.matcher(Constraint(kind, text))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="ends a text"):
        Grammars(codec, frozenset(), 300)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a' * 10**9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 3 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].nothing.there }}",
        "{{ messages.append(1) }}",
    ],
)
def test_hostile_templates_are_errors(template: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        render_chat(template, [{"role": "user", "content": "x"}], {}, seconds=0.5)


def test_templates_know_tools() -> None:
    template = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}"
    said = [{"role": "user", "content": "<é>"}]
    assert render_chat(template, said, {}) == "<é>"
    assert render_chat(template, said, {}, [{"a": "<é>"}]) == '{"a": "<é>"}<é>'


def test_templates_have_switches_of_their_own() -> None:
    template = "{% if think is defined and not think %}<none>{% endif %}{{ messages[0].content }}"
    said = [{"role": "user", "content": "é"}]
    assert render_chat(template, said, {}, switches={"think": False}) == "<none>é"
    assert render_chat(template, said, {}, switches={"messages": "wrong"}) == "é"


def chat(**values: Any) -> Chat:
    names = ("weather", "time")
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return Chat(messages=[], tools=tools, **values)


def test_calls_are_read() -> None:
    tools = tools_of(chat())
    assert tools is not None and tools.constraint() is None
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    text, calls = read_calls(f"Let me see.{call}{call}", tools)
    assert text == "Let me see." and len(calls) == 2
    assert calls[0]["function"] == {"name": "weather", "arguments": '{"city": "Bern"}'}
    (llama,) = read_calls('{"name": "time", "parameters": {}}', tools)[1]
    assert llama["function"] == {"name": "time", "arguments": "{}"}
    for other in ('{"name": "other", "arguments": {}}', "[" * 3000, "no call", "<tool_call>{"):
        text, calls = read_calls(other, tools)
        assert not calls and other in (text, text.removesuffix("</tool_call>"))
    forced = tools_of(chat(tool_choice={"type": "function", "function": {"name": "time"}}))
    assert forced is not None and forced.names == {"time"}
    assert "const" in (forced.constraint() or Constraint("json")).text
    assert tools_of(chat(tool_choice="none")) is None
    for wrong in ("some", {"type": "function", "function": {"name": "no"}}, {"function": 3}):
        with pytest.raises(InputError):
            tools_of(chat(tool_choice=wrong))

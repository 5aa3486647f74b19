"""Functions that a model may call: how it is told to, and how its calls are read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.llm.engine.structured import Constraint
from whet.serve.protocol import Chat

_BEGIN, _END = "<tool_call>", "</tool_call>"
_LLAMA = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called.

    Attributes:
        given: functions as the OpenAI API describes them.
        forced: whether one has to be called.
        names: their names.
        several: whether more than one may be called.
    """

    given: Sequence[dict[str, Any]]
    forced: bool
    names: frozenset[str]
    several: bool = True

    def constraint(self) -> Constraint | None:
        """Return what a forced call looks like: one JSON object of a name and arguments."""
        if not self.forced:
            return None
        kinds = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool["function"]["name"]},
                    "arguments": tool["function"].get("parameters") or {"type": "object"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.given
            if tool["function"]["name"] in self.names
        ]
        schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return Constraint("json_schema", json.dumps(schema))


def tools_of(chat: Chat) -> Tools | None:
    """Return what a conversation may call, ``None`` for nothing.

    Raises:
        InputError: a function has no name, or one is chosen that is not there.
    """
    if not chat.tools or chat.tool_choice == "none":
        return None
    names = [_name(tool) for tool in chat.tools]
    choice = chat.tool_choice or "auto"
    if isinstance(choice, dict):
        wanted = _name(choice)
        if wanted not in names:
            raise InputError(f"tool_choice names {wanted!r}, no tool is", where="body")
        return Tools(chat.tools, True, frozenset([wanted]), several=False)
    if choice not in ("auto", "required"):
        raise InputError(
            f"tool_choice is {choice!r}", where="body", hint="none, auto, required or a function"
        )
    return Tools(chat.tools, choice == "required", frozenset(names), chat.parallel_tool_calls)


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if tool.get("type", "function") != "function" or not isinstance(name, str) or not name:
        raise InputError("a tool is no function with a name", where="body", hint="see tools")
    return name


def read_calls(text: str, tools: Tools) -> tuple[str, list[dict[str, Any]]]:
    """Return a text without its calls, and the calls as the OpenAI API spells them.

    Calls stand between ``<tool_call>`` and ``</tool_call>``, as Hermes and Qwen write them, or are
    the whole text, as Llama writes them. What is no call of a function that is there stays text.
    """
    if _BEGIN not in text:
        call = _call(text.removeprefix(_LLAMA), tools)
        return (text, []) if call is None else ("", [call])
    said, calls = [], []
    rest = text
    while _BEGIN in rest:
        before, rest = rest.split(_BEGIN, 1)
        inside, _, rest = rest.partition(_END)
        call = _call(inside, tools)
        said.append(before if call is not None else before + _BEGIN + inside + _END)
        calls += [] if call is None else [call]
    text = "".join([*said, rest]).strip()
    return text, calls if tools.several else calls[:1]


def _call(text: str, tools: Tools) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("name") not in tools.names:
        return None
    arguments = found.get("arguments", found.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    function = {"name": found["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
